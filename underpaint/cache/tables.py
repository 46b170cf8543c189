"""Columns that people like to read."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass

_NO_TERMINAL = (1_000_000, 24)  # columns and lines of a file or a pipe


@dataclass(frozen=True)
class Column:
    """``numbers`` stand to the right; the one that ``gives`` is cut where the terminal ends."""

    title: str
    numbers: bool = False
    gives: bool = False


def table(columns: Sequence[Column], rows: Sequence[Sequence[str]], screen: int | None = None) -> str:
    """The rows below their titles, no wider than ``screen`` (default: the terminal, if that is where they go)."""
    titles = [column.title for column in columns]
    widths = [max(map(len, cells)) for cells in zip(titles, *rows, strict=True)]
    spare = (screen or shutil.get_terminal_size(_NO_TERMINAL).columns) - sum(widths) - 2 * (len(widths) - 1)
    if spare < 0:
        widths = [max(len(c.title), 12, w + spare) if c.gives else w for c, w in zip(columns, widths, strict=True)]
    lines = [
        [_cell(text, column, width) for text, column, width in zip(row, columns, widths, strict=True)]
        for row in [titles, *rows]
    ]
    return "\n".join("  ".join(line).rstrip() for line in lines)


def count(number: int) -> str:
    """12,345"""
    return f"{number:,}"


def size(size_bytes: float) -> str:
    """1.2 GB"""
    for unit in ("B", "kB", "MB", "GB"):
        if size_bytes < 1000:
            return f"{size_bytes:.0f} {unit}" if unit == "B" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1000
    return f"{size_bytes:.1f} TB"


def ago(seconds: float) -> str:
    """3 h ago"""
    for limit, length, unit in ((120, 1, "s"), (7200, 60, "min"), (172800, 3600, "h")):
        if seconds < limit:
            return f"{max(0.0, seconds) / length:.0f} {unit} ago"
    return f"{seconds / 86400:.0f} days ago"


def _cell(text: str, column: Column, width: int) -> str:
    fitting = text if len(text) <= width else f"{text[: width - 1]}…"
    return fitting.rjust(width) if column.numbers else fitting.ljust(width)
