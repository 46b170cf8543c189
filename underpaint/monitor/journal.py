"""What was decided and why, one JSON object a line, and the state from which a new monitor goes on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from underpaint.control.allocation import Allocation
from underpaint.monitor.settings import replace

_LARGEST = 10 * 1024 * 1024  # of a journal, in bytes; then it is put aside, and one that lay there goes


@dataclass(frozen=True)
class Decision:
    """One period.

    Attributes:
        at: UTC, ISO 8601.
        arrivals_per_s: the demand as estimated; ``counted`` as seen in this period.
        servers: how many answered, and ``silent``, what the others said instead.
        allocation: the allocator's answer, its reason included.
        settings: what follows of it; ``changed``: whether it differs from what was in force.
        applied: whether it is in force now; ``problems``: what went wrong on the way.
    """

    at: str
    arrivals_per_s: float
    counted: int
    servers: int
    allocation: Allocation
    settings: Mapping[str, Any]
    changed: bool = False
    applied: bool = False
    silent: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    waiting: Mapping[str, float] = field(default_factory=dict)

    def line(self) -> str:
        """For people."""
        verdict = "applied" if self.applied else "unchanged" if not self.changed else "not applied"
        split = f"{self.allocation.small}/{self.allocation.large} θ={self.allocation.direct:.2f} "
        split += f"τ={self.allocation.deferred:.2f}"
        parts = [f"{self.arrivals_per_s:.2f} requests/s", f"{self.allocation.policy} {split}", verdict]
        return "; ".join([*parts, *filter(None, [self.allocation.reason]), *self.problems, *self.silent])


class Journal:
    """A file that grows by a line a period, to a limit."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def note(self, decision: Decision) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self.path.exists() and self.path.stat().st_size > _LARGEST:
            self.path.replace(self.path.with_suffix(".old"))
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(decision)) + "\n")


@dataclass(frozen=True)
class State:
    """What a monitor knows beyond its settings: ``scores`` as :meth:`Scores.to_json` gives them."""

    allocation: Allocation
    scores: Mapping[str, Any] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        replace(path, json.dumps(asdict(self)) + "\n")

    @classmethod
    def load(cls, path: Path) -> State | None:
        """None where there is none, or none that makes sense: then a monitor begins anew."""
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
            return cls(Allocation(**raw["allocation"]), raw.get("scores", {}))
        except (OSError, ValueError, KeyError, TypeError):
            return None
