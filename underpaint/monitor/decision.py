"""From an allocation to settings: what the policies of a server are told."""

from __future__ import annotations

from typing import Any

from underpaint.control.allocation import Allocation
from underpaint.monitor.scores import CONFIDENCE, DIFFICULTY, Scores


def settings_of(allocation: Allocation, scores: Scores, slo_s: float) -> dict[str, Any]:
    """Names of ``policies.Settings`` and their values; None takes a name out, so that its default counts again.

    Thresholds follow the shares by the scores seen of late; where those are too few, the shares alone are handed over,
    and the front door goes by the scores that its router and discriminator were tested with. ``slo_s`` goes along: what
    is planned for a period holds on average, and the front door sees to single requests.
    """
    decided: dict[str, Any] = {"policy": allocation.policy, "small": allocation.small, "large": allocation.large}
    if allocation.shares:
        decided["small_share"] = round(allocation.shares.get(allocation.small, 0.0), 4)
    confidence = allocation.confidence
    if confidence is None:
        confidence = _threshold(scores, CONFIDENCE, allocation.deferred)
    return decided | {
        "defer_share": round(allocation.deferred, 4),
        "hard_share": round(allocation.direct, 4),
        "confidence_threshold": confidence,
        "router_threshold": _threshold(scores, DIFFICULTY, 1 - allocation.direct),
        "slo_ms": max(1, round(1000 * slo_s)),
    }


def _threshold(scores: Scores, name: str, share_below: float) -> float | None:
    """None for all and for nothing, which no score that was seen stands for."""
    if share_below in (0, 1):
        return None
    threshold = scores.threshold(name, share_below)
    return None if threshold is None else round(threshold, 5)
