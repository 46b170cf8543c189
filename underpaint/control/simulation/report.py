"""What a run of the simulator amounts to."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from underpaint.control.curves import Cascade, interpolate
from underpaint.control.profile import Profile
from underpaint.control.simulation.jobs import Job
from underpaint.control.simulation.population import Population
from underpaint.control.simulation.scenario import Run

_TOLERANCE = 1e-6


@dataclass(frozen=True)
class Summary:
    """Of one allocator.

    Attributes:
        violation_rate: share of the requests that were not answered within what was promised, dropped ones among them.
        goodput_per_s: requests answered in time, a second of the trace.
        loss: how bad the answered images are, as profiled for the splits that really happened; see ``loss``.
        accuracy: of the answered images, where that was recorded.
        large_share: of the answered images; ``deferred_share``: of the requests, painted by both variants.
        infeasible: share of the time in which the allocator saw no way.
    """

    requests: int
    violation_rate: float
    dropped: float
    answered: float
    goodput_per_s: float
    p50_s: float | None
    p95_s: float | None
    p99_s: float | None
    loss: float | None
    accuracy: float | None
    large_share: float
    deferred_share: float
    fallbacks: float
    infeasible: float
    swaps: int
    variants: dict[str, float]


def summarise(run: Run, profile: Profile, population: Population) -> Summary:
    """``profile``: by which quality is judged; it may know more configurations than the one that was allocated by."""
    jobs, answered = run.jobs, [job for job in run.jobs if job.answered]
    total, seconds = max(1, len(jobs)), max((job.arrived_s for job in jobs), default=0.0) or 1.0
    latencies = [job.latency_s for job in answered if job.latency_s is not None]
    p50, p95, p99 = (float(np.percentile(latencies, p)) if latencies else None for p in (50, 95, 99))
    by, lightest = Counter(job.variant for job in answered), profile.lightest.name
    return Summary(
        requests=len(jobs),
        violation_rate=sum(not job.in_time for job in jobs) / total,
        dropped=sum(job.dropped for job in jobs) / total,
        answered=len(answered) / total,
        goodput_per_s=sum(job.in_time for job in jobs) / seconds,
        p50_s=p50,
        p95_s=p95,
        p99_s=p99,
        loss=loss(run, profile),
        accuracy=_accuracy(answered, population),
        large_share=sum(job.variant == job.pair[1] != lightest for job in answered) / max(1, len(answered)),
        deferred_share=sum(len(job.painted) > 1 for job in answered) / total,
        fallbacks=sum(job.fallback for job in answered) / total,
        infeasible=sum(not window.allocation.feasible for window in run.windows) / len(run.windows),
        swaps=run.swaps,
        variants={name: by[name] / max(1, len(answered)) for name in (each.name for each in profile.variants)},
    )


def loss(run: Run, profile: Profile) -> float | None:
    """Profiled loss of what was served, window by window, weighted with the images.

    In each window it is that of the split that really happened between the pair in force, not of the one that was
    planned: from all profiled configurations where the profile has them on a grid, else from the curve against the
    large variant's share, else from the variants alone, by a straight line.
    """
    parts = [(len(jobs), _loss_of(jobs, profile)) for jobs in _by_window(run)]
    known = [(count, each) for count, each in parts if each is not None]
    if not known or len(known) < len(parts):
        return None
    return sum(count * each for count, each in known) / sum(count for count, _ in known)


def _by_window(run: Run) -> list[list[Job]]:
    """Answered jobs that arrived between the same allocations and met the same pair."""
    starts = [window.start_s for window in run.windows]
    groups: dict[tuple[int, tuple[str, str]], list[Job]] = defaultdict(list)
    for job in run.jobs:
        if job.answered:
            groups[bisect_right(starts, job.arrived_s), job.pair].append(job)
    return list(groups.values())


def _loss_of(jobs: Sequence[Job], profile: Profile) -> float | None:
    small, large = jobs[0].pair
    used = Counter(job.variant for job in jobs)
    if small == large or len(used) == 1 or set(used) - {small, large}:
        return _linear(used, profile)
    share = used[large] / len(jobs)
    direct = sum(job.painted == [large] for job in jobs) / len(jobs)
    deferred = (share - direct) / (1 - direct) if direct < 1 else 0.0
    grid = [row for row in profile.cascades if (row.small, row.large) == (small, large)]
    surface = bilinear(grid, direct, max(0.0, deferred))
    if surface is not None:
        return surface
    mix = profile.mix(small, large)
    return mix.loss(share) if mix else _linear(used, profile)


def _linear(used: Counter[str], profile: Profile) -> float | None:
    losses = {name: profile.variant(name).loss for name in used}
    if any(each is None for each in losses.values()):
        return None
    return sum(count * (losses[name] or 0.0) for name, count in used.items()) / used.total()


def bilinear(rows: Sequence[Cascade], direct: float, deferred: float) -> float | None:
    """The loss between profiled configurations; None where they do not form a grid."""
    directs, deferreds = sorted({row.direct for row in rows}), sorted({row.deferred for row in rows})
    table = {(row.direct, row.deferred): row.loss for row in rows}
    if len(directs) < 2 or len(table) < len(directs) * len(deferreds):
        return None
    along = [interpolate(deferreds, [table[d, each] for each in deferreds], deferred) for d in directs]
    return interpolate(directs, along, direct)


def _accuracy(answered: Sequence[Job], population: Population) -> float | None:
    if not population.correct or not answered:
        return None
    return float(np.mean([population.correct[job.variant][job.prompt] for job in answered]))
