"""Cascade configurations worth having, from paired scores: what router and discriminator said of prompts, and how bad
the small and the large variant's images of the very same prompts were.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from underpaint.control.curves import Cascade, Mix
from underpaint.control.profile import VariantProfile
from underpaint.errors import InvalidArgument

SHARES = tuple(round(0.05 * each, 2) for each in range(21))


@dataclass(frozen=True, eq=False)
class Paired:
    """Arrays [prompts]; ``router``: the chance that the small variant fails, ``confidence``: that its image is good."""

    router: np.ndarray
    confidence: np.ndarray
    small_loss: np.ndarray
    large_loss: np.ndarray

    def __post_init__(self) -> None:
        sizes = {len(each) for each in (self.router, self.confidence, self.small_loss, self.large_loss)}
        if len(sizes) != 1 or 0 in sizes:
            raise InvalidArgument.of("scores", sorted(sizes), "as many of all four, 1 or more")

    def loss(self, direct: float, deferred: float) -> float:
        """Mean loss, if the router's hardest ``direct`` go to the large variant, and of the others ``deferred``."""
        by_difficulty = np.argsort(-self.router, kind="stable")
        hard = round(direct * len(by_difficulty))
        rest = by_difficulty[hard:]
        rejected = rest[np.argsort(self.confidence[rest], kind="stable")][: round(deferred * len(rest))]
        losses = self.small_loss.copy()
        for chosen in (by_difficulty[:hard], rejected):
            losses[chosen] = self.large_loss[chosen]
        return float(losses.mean())


def configurations(paired: Paired, small: str, large: str) -> list[Cascade]:
    """On a grid of both shares."""
    return [Cascade(small, large, d, e, paired.loss(d, e)) for d in SHARES for e in SHARES]


def mix(paired: Paired, small: str, large: str) -> Mix:
    """By the discriminator alone."""
    return Mix(small, large, SHARES, tuple(paired.loss(0.0, share) for share in SHARES))


def front(rows: Sequence[Cascade], cost: Callable[[Cascade], float]) -> list[Cascade]:
    """Those that no other beats in both cost and loss, from the cheapest to the best."""
    kept: list[Cascade] = []
    for row in sorted(rows, key=lambda each: (cost(each), each.loss)):
        if not kept or row.loss < kept[-1].loss:
            kept.append(row)
    return kept


def expected_s(row: Cascade, small: VariantProfile, large: VariantProfile, judging_s: float) -> float:
    """Device-seconds of a request, at each variant's best batch size."""
    small_s, large_s = (1 / max(each.images_per_s for each in v.latencies) for v in (small, large))
    judged_s = judging_s if row.deferred > 0 else 0.0
    return (1 - row.direct) * (small_s + judged_s) + row.large_share * large_s
