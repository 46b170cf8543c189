"""Simulated time: what is to happen, in order."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable


class Clock:
    """A heap of events. What is due at the same time happens in the order in which it was asked for."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()

    def at(self, time_s: float, event: Callable[[], None]) -> None:
        """Have something happen then; at once, if that has passed."""
        heapq.heappush(self._events, (max(time_s, self.now_s), next(self._numbers), event))

    def after(self, seconds: float, event: Callable[[], None]) -> None:
        self.at(self.now_s + seconds, event)

    def run(self) -> None:
        """Until nothing is left to happen."""
        while self._events:
            self.now_s, _, event = heapq.heappop(self._events)
            event()
