"""What the front door has done so far, for metrics."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from underpaint.front_door.outcome import Outcome

Counts = Counter[tuple[str, ...]]


def _says(help: str, *labels: str) -> dict[str, Any]:
    return {"help": help, "labels": labels}


@dataclass(frozen=True)
class Tally:
    """Counters since start. Each field is one metric, and says what it counts and by which labels."""

    requests: Counts = field(default_factory=Counter, metadata=_says("Requests answered with an image", "policy"))
    hits: Counts = field(default_factory=Counter, metadata=_says("Requests that started from the cache", "policy"))
    misses: Counts = field(
        default_factory=Counter, metadata=_says("Requests that did not, although their policy can", "policy", "reason")
    )
    steps_run: Counts = field(
        default_factory=Counter, metadata=_says("Denoising steps run for answered requests", "policy", "variant")
    )
    steps_skipped: Counts = field(
        default_factory=Counter, metadata=_says("Denoising steps saved by the cache", "policy", "variant")
    )
    guesses: Counts = field(
        default_factory=Counter, metadata=_says("Match predictions that were checked", "guessed", "found")
    )
    predicted_misses: Counts = field(
        default_factory=Counter, metadata=_says("Lookups not made because no match was expected")
    )
    remembered: Counts = field(default_factory=Counter, metadata=_says("Images offered to the cache", "result"))

    def count(self, outcome: Outcome) -> None:
        """A request has been answered."""
        self.requests[outcome.policy,] += 1
        if outcome.source is not None:
            self.hits[outcome.policy,] += 1
        elif outcome.miss is not None:
            self.misses[outcome.policy, outcome.miss] += 1
        self.steps_run[outcome.policy, outcome.variant] += outcome.steps_run
        self.steps_skipped[outcome.policy, outcome.variant] += outcome.steps_skipped
