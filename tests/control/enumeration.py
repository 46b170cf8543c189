"""The cascade problem solved by trying everything, to check what HiGHS finds."""

from __future__ import annotations

import math
from collections.abc import Iterator

from underpaint.control.allocators.cascade import Batch, Option, Problem, Stage


def least_loss(problem: Problem) -> float | None:
    return min(
        (o.loss for o in problem.options if any(_feasible(problem, o, pair) for pair in _pairs(problem))), default=None
    )


def _pairs(problem: Problem) -> Iterator[tuple[Batch | None, Batch | None]]:
    for small in (None, *problem.small.batches):
        for large in (None, *problem.large.batches):
            yield small, large


def _feasible(problem: Problem, option: Option, pair: tuple[Batch | None, Batch | None]) -> bool:
    needed = 0.0
    for load, batch in zip((option.small_load, option.large_load), pair, strict=True):
        images_per_s = problem.demand_per_s * load
        if images_per_s > 1e-9 and batch is None:
            return False
        devices = images_per_s / batch.per_s if batch else 0.0
        needed += devices if problem.shared else math.ceil(devices - 1e-6)
    return needed <= problem.devices + 1e-6 and _in_time(problem, pair)


def _in_time(problem: Problem, pair: tuple[Batch | None, Batch | None]) -> bool:
    seconds = [batch.latency_s if batch else 0.0 for batch in pair]
    waits = [stage.wait_s for stage in (problem.small, problem.large)]
    if problem.chained:
        return sum(seconds) <= problem.slo_s - sum(waits) + 1e-6
    return all(s <= max(0.0, problem.slo_s - w) + 1e-6 for s, w in zip(seconds, waits, strict=True))


__all__ = ["Stage", "least_loss"]
