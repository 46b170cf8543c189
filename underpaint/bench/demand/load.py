"""Load, and what is read off it. Closed loop: so many workers, each asking again as soon as it is answered.

A worker's rate is counted over its own whole cycles, from the start of the first to the end of the last, and the
rates of all workers are summed. That is exact even when answers come in bursts, as they do when requests share batches.

Where the work is a list that ends, its rate is counted over the time in which nobody was idle yet.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

Clock = Callable[[], float]


@dataclass(frozen=True)
class Cycle:
    """One piece of work, done by one worker; seconds of one clock."""

    worker: int
    start_s: float
    end_s: float


@dataclass(frozen=True)
class Window:
    """Which cycles count: those that begin after ``ramp_s``, in which the workers join one by one lest they move in
    step, for at least ``measure_s`` and until every worker has done ``min_cycles`` of them."""

    measure_s: float
    ramp_s: float = 0.0
    min_cycles: int = 2


@dataclass(frozen=True)
class Percentiles:
    """Of latencies, in milliseconds."""

    p50: float
    p90: float
    p99: float
    max: float

    @classmethod
    def of(cls, cycles: Iterable[Cycle]) -> Percentiles:
        durations_ms = [(cycle.end_s - cycle.start_s) * 1000 for cycle in cycles]
        p50, p90, p99, highest = np.percentile(durations_ms, [50, 90, 99, 100]).round(2).tolist()
        return cls(p50, p90, p99, highest)


def closed_loop(
    work: Callable[[int], object], workers: int, window: Window, clock: Clock = time.perf_counter
) -> list[Cycle]:
    """Repeat ``work``, which blocks, in ``workers`` threads; the cycles that count.

    ``work`` is given a number that counts up over all workers. Until the window closes every worker keeps working, so
    that the load on those that are still being counted stays the same. An exception ends the loop and is raised.
    """
    loop = _ClosedLoop(work, workers, window, clock)
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(loop.run, range(workers)))
    return loop.counted


class _ClosedLoop:
    def __init__(self, work: Callable[[int], object], workers: int, window: Window, clock: Clock) -> None:
        self.counted: list[Cycle] = []
        self._work, self._workers, self._window, self._clock = work, workers, window, clock
        self._opens_s = clock() + window.ramp_s
        self._closes_s = self._opens_s + window.measure_s
        self._numbers = itertools.count()
        self._cycles = [0] * workers
        self._lock, self._over = threading.Lock(), threading.Event()

    def run(self, worker: int) -> None:
        self._over.wait(self._window.ramp_s * worker / self._workers)
        while not self._over.is_set():
            start_s = self._clock()
            try:
                self._work(next(self._numbers))
            except BaseException:
                self._over.set()
                raise
            self._count(Cycle(worker, start_s, self._clock()))

    def _count(self, cycle: Cycle) -> None:
        with self._lock:
            if cycle.start_s < self._opens_s or self._over.is_set():
                return
            self.counted.append(cycle)
            self._cycles[cycle.worker] += 1
            if cycle.end_s >= self._closes_s and min(self._cycles) >= self._window.min_cycles:
                self._over.set()


def work_off(work: Callable[[int], object], count: int, workers: int, clock: Clock = time.perf_counter) -> list[Cycle]:
    """Do ``work(0)`` to ``work(count - 1)`` in that order, ``workers`` at a time; one cycle for each, by number.

    An exception, Ctrl-C included, ends it after the pieces of work that are under way, and is raised.
    """
    numbers, over = itertools.count(), threading.Event()
    cycles: dict[int, Cycle] = {}

    def run(worker: int) -> None:
        while not over.is_set() and (number := next(numbers)) < count:
            start_s = clock()
            try:
                work(number)
            except BaseException:
                over.set()
                raise
            cycles[number] = Cycle(worker, start_s, clock())

    with ThreadPoolExecutor(workers) as pool:
        try:
            list(pool.map(run, range(workers)))
        finally:
            over.set()
    return [cycles[number] for number in range(count)]


def busy_rate_per_s(cycles: Sequence[Cycle]) -> float:
    """Cycles a second while every worker was busy, of those that ``work_off`` did.

    A cycle that reaches beyond that time counts by the share of it that lies within.
    """
    last_ends: dict[int, float] = {}
    for cycle in cycles:
        last_ends[cycle.worker] = max(cycle.end_s, last_ends.get(cycle.worker, cycle.end_s))
    opens_s, closes_s = min(cycle.start_s for cycle in cycles), min(last_ends.values())
    shares = [max(0.0, min(c.end_s, closes_s) - c.start_s) / (c.end_s - c.start_s) for c in cycles]
    return sum(shares) / (closes_s - opens_s)


def rate_per_s(cycles: Sequence[Cycle]) -> float:
    """Cycles a second, all workers together."""
    by_worker: dict[int, list[Cycle]] = {}
    for cycle in cycles:
        by_worker.setdefault(cycle.worker, []).append(cycle)
    return sum(
        len(own) / (max(cycle.end_s for cycle in own) - min(cycle.start_s for cycle in own))
        for own in by_worker.values()
    )
