"""How far a command is: a line on a terminal, and nothing anywhere else."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from tqdm import tqdm


class Progress:
    """So much is to be done in all; the line goes when that has ended."""

    def __init__(self, total: int, unit: str = "it", doing: str | None = None) -> None:
        no_terminal = None  # as tqdm calls it
        self._bar: tqdm[None] = tqdm(
            total=total, unit=unit, desc=doing, disable=no_terminal, leave=False, dynamic_ncols=True
        )

    def advance(self, by: int = 1) -> None:
        self._bar.update(by)

    def doing(self, what: str) -> None:
        self._bar.set_description(what)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._bar.close()
