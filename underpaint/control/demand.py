"""Demand: requests that arrive a second, smoothed.

Arrivals are counted, never requests outstanding: those are λ·W, which grows with latency, so that a slow server would
take its own slowness for demand and never recover (as DiffServe's and HADIS' code does).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from underpaint.errors import InvalidArgument


@dataclass(frozen=True)
class Smoothing:
    """How fast a demand forgets, and how much is added to be safe.

    Attributes:
        half_life_s: after which an old count weighs half.
        margin: what the estimate is multiplied with.
        rises_at_once: a count above the estimate replaces it, so that a burst is answered in the first period.
    """

    half_life_s: float
    margin: float = 1.0
    rises_at_once: bool = False

    def __post_init__(self) -> None:
        if not self.half_life_s > 0:
            raise InvalidArgument.of("half_life_s", self.half_life_s, "seconds, above 0")
        if not self.margin > 0:
            raise InvalidArgument.of("margin", self.margin, "a factor, above 0")


# pandas' ewm(com=2.1) in ticks of a second: a weight of 2.1/3.1 a tick.
DIFFSERVE = Smoothing(half_life_s=math.log(0.5) / math.log(2.1 / 3.1), margin=1.05)
HADIS = Smoothing(half_life_s=3, margin=1.05)
OURS = Smoothing(half_life_s=5, margin=1.0, rises_at_once=True)


class Demand:
    """An exponentially weighted mean of rates, each weighted with the time that it was counted in.

    Without a bias towards 0 at the start (pandas' ``adjust=True``).
    """

    def __init__(self, smoothing: Smoothing) -> None:
        self._smoothing = smoothing
        self._requests = 0.0
        self._seconds = 0.0

    def count(self, arrivals: int, seconds: float) -> None:
        """So many requests came in the last ``seconds``. Time that stands still or runs backwards is passed over."""
        if arrivals < 0:
            raise InvalidArgument.of("arrivals", arrivals, "0 or more")
        if not (math.isfinite(seconds) and seconds > 0):
            return
        if self._smoothing.rises_at_once and arrivals / seconds > self._rate():
            self._requests, self._seconds = 0.0, 0.0
        kept = 0.5 ** (seconds / self._smoothing.half_life_s)
        self._requests = kept * self._requests + arrivals
        self._seconds = kept * self._seconds + seconds

    @property
    def per_s(self) -> float:
        """The estimate, with its margin; 0 before anything was counted."""
        return self._rate() * self._smoothing.margin

    def _rate(self) -> float:
        return self._requests / self._seconds if self._seconds else 0.0
