"""Reports: as JSON for machines, as a few lines for people."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from underpaint.bench.common.machine import PACKAGES, Machine, now, versions

INTERRUPTED = 130  # exit code, as shells have it


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


def about(machine: Machine, packages: Sequence[str] = PACKAGES) -> dict[str, Any]:
    """Where, with what and when: the end of a report."""
    return {"machine": asdict(machine), "versions": versions(packages), "date": now()}


def leave(report: Mapping[str, Any], path: Path | None) -> None:
    """Write it, where a file was asked for, and say so."""
    if path is not None:
        write_json(report, path)
        print(f"report: {path}")


def exit_code(cut_short: str) -> int:
    """0, or where something cut the run short, ``INTERRUPTED``, and that on standard error."""
    if not cut_short:
        return 0
    print(f"underpaint: not complete: {cut_short}", file=sys.stderr)
    return INTERRUPTED


def write_json(report: Mapping[str, Any], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=2) + "\n")
