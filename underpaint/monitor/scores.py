"""The distribution of live scores, from the histograms that front doors publish, and the thresholds that follow.

A share is what an allocator plans with, a threshold is what a policy compares with. Scores drift with prompts, seeds
and weights, so the one is turned into the other by what was seen of late, not by what once was seen elsewhere.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from underpaint.control.quantiles import Quantiles
from underpaint.monitor.metrics import Sample

CONFIDENCE, DIFFICULTY = "confidence", "difficulty"
_METRIC = "underpaint_door_scores_total"
_ENOUGH = 100.0  # scores, before they say anything
_HALF_LIFE = 2000.0  # scores, after which an old one weighs half


class Scores:
    """A sketch each of what router and discriminator said of late."""

    def __init__(self) -> None:
        self._sketches = {CONFIDENCE: Quantiles(), DIFFICULTY: Quantiles()}

    def learn(self, grown: Sample) -> None:
        """Take in the scores that came between two samples of a server."""
        for name, sketch in self._sketches.items():
            buckets = _buckets(grown, name)
            sketch.fade(0.5 ** (sum(buckets.values()) / _HALF_LIFE))
            for middle, count in buckets.items():
                for _ in range(count):
                    sketch.add(middle)

    def threshold(self, name: str, share_below: float) -> float | None:
        """The score that so many lie below; None as long as too few have been seen."""
        sketch = self._sketches[name]
        return sketch.quantile(share_below) if sketch.weight >= _ENOUGH else None

    def to_json(self) -> dict[str, Any]:
        return {name: sketch.to_json() for name, sketch in self._sketches.items()}

    def restore(self, raw: dict[str, Any]) -> None:
        """What :meth:`to_json` gave."""
        self._sketches = {name: Quantiles.from_json(raw[name]) for name in self._sketches}


def _buckets(grown: Sample, name: str) -> dict[float, int]:
    """How many scores fell between two edges, by the middle of the two; the histograms, one a front door, are
    cumulative."""
    cumulative: Counter[float] = Counter()
    for labels, value in grown.values.get(_METRIC, {}).items():
        said = dict(labels)
        if said.get("score") == name:
            cumulative[float(said["le"])] += round(value)
    counted: dict[float, int] = {}
    below, edge = 0, 0.0
    for upper, count in sorted(cumulative.items()):
        upper = min(upper, 1.0)
        if count > below:
            counted[(edge + upper) / 2] = count - below
        below, edge = count, upper
    return counted
