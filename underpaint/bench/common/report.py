"""Reports: as JSON for machines, as a few lines for people."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def rounded(report: Mapping[str, Any], digits: int = 4) -> dict[str, Any]:
    """The same with fewer digits, which nobody could measure anyway; JSON has no word for what is not a number."""

    def fewer(value: Any) -> Any:
        if isinstance(value, list | tuple):
            return [fewer(each) for each in value]
        if isinstance(value, Mapping):
            return {name: fewer(each) for name, each in value.items()}
        if not isinstance(value, float):
            return value
        return round(value, digits) if math.isfinite(value) else None

    return {name: fewer(value) for name, value in report.items()}


def table(lines: Sequence[Sequence[str]]) -> str:
    """Cells in columns, the first of them aligned to the left."""
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    aligned = "<" + ">" * (len(widths) - 1)
    return "\n".join(
        "  ".join(f"{cell:{align}{width}}" for cell, align, width in zip(line, aligned, widths, strict=True))
        for line in lines
    )


def write_json(report: Mapping[str, Any], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=2) + "\n")
