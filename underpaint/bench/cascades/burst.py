"""A burst: demand that jumps to many times what it was, for a while, and back."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from underpaint.bench.cascades.replay import Yardstick
from underpaint.bench.demand.open_loop import UNANSWERED, Reply
from underpaint.bench.demand.traces import Schedule

_WINDOW_S = 2.0
_RECOVERED = 0.95  # of the requests of a window within their objective, from then on


@dataclass(frozen=True)
class Burst:
    """``before_per_s`` requests a second, for ``lasts_s`` so many ``times`` as many, then as before."""

    before_per_s: float
    times: float
    lasts_s: float
    around_s: float

    def schedule(self) -> Schedule:
        """In intervals that begin and end with the burst."""
        step_s = math.gcd(round(1000 * self.lasts_s), round(1000 * self.around_s)) / 1000
        calm = (self.before_per_s,) * round(self.around_s / step_s)
        return Schedule(step_s, calm + (self.times * self.before_per_s,) * round(self.lasts_s / step_s) + calm)

    @property
    def ends_s(self) -> float:
        return self.around_s + self.lasts_s


@dataclass(frozen=True)
class Weathered:
    """How a burst was borne.

    Attributes:
        goodput_ratio: requests of the burst that were answered within ``limit_s``, a second of it, to what the large
            model sustains.
        recovery_s: from the end of the burst until ``_RECOVERED`` of the requests of every later window are in time;
            None where that does not come.
        refused: requests that were told to come back later; failed: that got another error; unanswered: that got
            nothing.
    """

    limit_s: float
    requests: int
    goodput_ratio: float
    recovery_s: float | None
    refused: int
    failed: int
    unanswered: int


def weathered(burst: Burst, replies: Sequence[Reply], yardstick: Yardstick, limit_s: float) -> Weathered:
    during = [reply for reply in replies if burst.around_s <= reply.due_s < burst.ends_s]
    in_time = sum(_in_time(reply, limit_s) for reply in during)
    trouble = [reply.trouble for reply in replies if reply.trouble]
    return Weathered(
        limit_s=limit_s,
        requests=len(replies),
        goodput_ratio=in_time / burst.lasts_s / yardstick.sustained_per_s,
        recovery_s=_recovery_s(burst, replies, limit_s),
        refused=trouble.count("Overloaded"),
        failed=len(trouble) - trouble.count("Overloaded") - trouble.count(UNANSWERED),
        unanswered=trouble.count(UNANSWERED),
    )


def _recovery_s(burst: Burst, replies: Sequence[Reply], limit_s: float) -> float | None:
    """The end of the last window that is not well."""
    windows: dict[int, list[bool]] = {}
    for reply in replies:
        if reply.due_s >= burst.ends_s:
            windows.setdefault(int((reply.due_s - burst.ends_s) / _WINDOW_S), []).append(_in_time(reply, limit_s))
    ill = [number for number, met in windows.items() if sum(met) < _RECOVERED * len(met)]
    if not windows or max(ill, default=-1) == max(windows):
        return None
    return (max(ill) + 1) * _WINDOW_S if ill else 0.0


def _in_time(reply: Reply, limit_s: float) -> bool:
    return reply.answered and reply.latency_s <= limit_s
