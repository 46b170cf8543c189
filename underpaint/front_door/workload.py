"""How much work the server holds, and how long it will take: a clock that runs slower the more share it.

Requests that are painted at the same time share the machine, so that how long one takes says as much of the others as
of itself. On a fair clock, which advances by dt/n while n are being painted, every painting takes what it would take
with the machine to itself: its work. (Virtual time, as in fair queueing: Parekh and Gallager 1993,
doi 10.1109/90.234856.)
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median

_REMEMBERED = 64


@dataclass(eq=False)
class Work:
    """A painting that waits or runs: ``expected_s`` of work; ``began`` on the fair clock, None as long as it waits."""

    variant: str
    steps: int
    expected_s: float
    began: float | None = None


class Workload:
    """All paintings of one front door, waiting and running. Not safe for use from several threads."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._jobs: set[Work] = set()
        self._running = 0
        self._fair, self._looked_at = 0.0, clock()
        self._step_s: dict[str, deque[float]] = {}

    @contextmanager
    def job(self, variant: str, steps: int) -> Iterator[Work]:
        """A painting from when it is planned to its end; ``steps``: how many it will run."""
        job = Work(variant, steps, self.work_s(variant, steps))
        self._jobs.add(job)
        try:
            yield job
        finally:
            self._jobs.discard(job)

    @contextmanager
    def running(self, job: Work) -> Iterator[None]:
        """The part of it in which it has the machine. Only a painting that comes to its end is learnt from."""
        self._advance()
        job.began = self._fair
        self._running += 1
        finished = False
        try:
            yield
            finished = True
        finally:
            self._advance()
            self._running -= 1
            if finished and job.steps > 0:
                self._steps_of(job.variant).append((self._fair - job.began) / job.steps)

    def work_s(self, variant: str, steps: int) -> float:
        """Seconds that ``steps`` of ``variant`` keep the machine busy; 0 as long as nobody knows."""
        lately = self._steps_of(variant)
        return steps * median(lately) if lately else 0.0

    def backlog_s(self) -> float:
        """Seconds until all that has been let in is done."""
        self._advance()
        return sum(
            job.expected_s if job.began is None else max(0.0, job.expected_s - (self._fair - job.began))
            for job in self._jobs
        )

    def _advance(self) -> None:
        now = self._clock()
        if self._running:
            self._fair += max(0.0, now - self._looked_at) / self._running
        self._looked_at = now

    def _steps_of(self, variant: str) -> deque[float]:
        return self._step_s.setdefault(variant, deque(maxlen=_REMEMBERED))
