"""A sketch of a stream of scores that answers for quantiles: of bounded size, mergeable, and able to forget.

A merging t-digest (Dunning and Ertl, arXiv 1902.04023) with the scale function k1: clusters are small where the
distribution ends and large in its middle, so that a threshold that defers 1% is as exact as it has to be.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from underpaint.errors import InvalidArgument

_COMPRESSION = 100.0  # δ: at most this many clusters
_BUFFER = 512  # scores that are taken in together
_NEGLIGIBLE = 1e-6  # weight below which a cluster is forgotten


@dataclass
class Quantiles:
    """Scores and their weights, as clusters by rising mean. Rank errors: up to 2/δ in the middle, less at the ends."""

    means: np.ndarray = field(default_factory=lambda: np.empty(0))
    weights: np.ndarray = field(default_factory=lambda: np.empty(0))
    lowest: float = math.inf
    highest: float = -math.inf
    _waiting: list[float] = field(default_factory=list, repr=False)

    @classmethod
    def of(cls, scores: Iterable[float]) -> Quantiles:
        sketch = cls()
        for score in scores:
            sketch.add(score)
        return sketch

    def add(self, score: float) -> None:
        """Raises InvalidArgument for what is not a finite number."""
        if not math.isfinite(score):
            raise InvalidArgument.of("score", score, "a finite number")
        self._waiting.append(float(score))
        if len(self._waiting) >= _BUFFER:
            self._settle()

    def merge(self, other: Quantiles) -> None:
        """Take in what another sketch has seen."""
        other._settle()
        self._settle()
        self._take(other.means, other.weights, other.lowest, other.highest)

    def fade(self, kept: float) -> None:
        """Let everything seen so far weigh only ``kept`` of what it did, so that drift shows."""
        if not 0 <= kept <= 1:
            raise InvalidArgument.of("kept", kept, "a share, 0 to 1")
        self._settle()
        self.weights = self.weights * kept
        stays = self.weights > _NEGLIGIBLE
        self.means, self.weights = self.means[stays], self.weights[stays]
        if not len(self.means):
            self.lowest, self.highest = math.inf, -math.inf

    @property
    def weight(self) -> float:
        """How many scores it speaks for."""
        return float(self.weights.sum()) + len(self._waiting)

    def quantile(self, share: float) -> float:
        """The score that ``share`` of all scores lie below. Raises InvalidArgument where none has been seen."""
        if not 0 <= share <= 1:
            raise InvalidArgument.of("share", share, "a share, 0 to 1")
        self._settle()
        if not len(self.means):
            raise InvalidArgument.of("quantiles", "nothing seen yet", "one score or more")
        return float(np.interp(share, *self._ranks()))

    def share_below(self, score: float) -> float:
        """The other way round; 0 where nothing has been seen."""
        self._settle()
        if not len(self.means) or score <= self.lowest:
            return 0.0
        if score > self.highest:
            return 1.0
        ranks, scores = self._ranks()
        return float(np.interp(score, scores, ranks))

    def to_json(self) -> dict[str, Any]:
        """So that whoever keeps a sketch can be stopped and started."""
        self._settle()
        if not len(self.means):
            return {"means": [], "weights": []}
        return {
            "means": self.means.tolist(),
            "weights": self.weights.tolist(),
            "lowest": self.lowest,
            "highest": self.highest,
        }

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Quantiles:
        """What :meth:`to_json` wrote."""
        means, weights = np.array(raw["means"], dtype=float), np.array(raw["weights"], dtype=float)
        if means.shape != weights.shape or means.ndim != 1 or not np.isfinite([*means, *weights]).all():
            raise InvalidArgument.of("quantiles", f"{means.shape} and {weights.shape}", "as many means as weights")
        return cls(means, weights, float(raw.get("lowest", math.inf)), float(raw.get("highest", -math.inf)))

    def _ranks(self) -> tuple[np.ndarray, np.ndarray]:
        """Points of the distribution: a cluster's mean lies in the middle of its weight; the extremes are known."""
        total = self.weights.sum()
        middles = (np.cumsum(self.weights) - self.weights / 2) / total
        return np.array([0.0, *middles, 1.0]), np.array([self.lowest, *self.means, self.highest])

    def _settle(self) -> None:
        if self._waiting:
            scores, self._waiting = np.array(self._waiting), []
            self._take(scores, np.ones(len(scores)), float(scores.min()), float(scores.max()))

    def _take(self, means: np.ndarray, weights: np.ndarray, lowest: float, highest: float) -> None:
        if not len(means):
            return
        self.lowest, self.highest = min(self.lowest, lowest), max(self.highest, highest)
        means, weights = np.concatenate([self.means, means]), np.concatenate([self.weights, weights])
        order = np.argsort(means, kind="stable")
        self.means, self.weights = _clustered(means[order], weights[order])


def _clustered(means: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Neighbours together as long as their cluster spans at most one unit of the scale function."""
    shares = np.cumsum(weights) / weights.sum()
    starts, limit = [0], _limit(0.0)
    for at in range(1, len(means)):
        if shares[at] > limit:
            starts.append(at)
            limit = _limit(float(shares[at - 1]))
    totals = np.add.reduceat(weights, starts)
    return np.add.reduceat(means * weights, starts) / totals, totals


def _limit(share: float) -> float:
    """Where a cluster must end that begins at ``share``: k1⁻¹(k1(share) + 1), with k1(q) = δ/2π · asin(2q - 1)."""
    angle = math.asin(2 * min(max(share, 0.0), 1.0) - 1) + 2 * math.pi / _COMPRESSION
    return 1.0 if angle >= math.pi / 2 else (math.sin(angle) + 1) / 2
