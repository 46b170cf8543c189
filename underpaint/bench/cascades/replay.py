"""``underpaint bench replay``: demand that does not wait for answers (see ``demand.open_loop``).

The yardstick is the large model by itself, measured at the start of the run: what it sustains, and how long it takes
when nobody else asks. A request within twice (four times) that latency meets the objective.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import mean

import numpy as np

from underpaint.bench.demand.open_loop import UNANSWERED, Reply
from underpaint.bench.demand.workload import WorkItem

OBJECTIVES = (2, 4)  # times the unloaded latency of the large model


@dataclass(frozen=True)
class Yardstick:
    """The large model by itself: images a second at saturation, and seconds for one when nobody else asks."""

    sustained_per_s: float
    unloaded_s: float


@dataclass(frozen=True)
class Objective:
    """How often an objective was met.

    Attributes:
        attainment: share of all requests, answered or not, that were answered within ``limit_s``.
        goodput_per_s: those, a second of the trace.
        violations: number of the others.
    """

    limit_s: float
    attainment: float
    goodput_per_s: float
    violations: int


@dataclass(frozen=True)
class Run:
    """One policy through one realisation of the trace.

    Attributes:
        latency_p50_s, latency_p99_s: of the answered, and of the unanswered as long as they had waited.
        failed: requests that got an error; unanswered: that got nothing before the run was over.
        lag_p99_s: how late the generator itself was; far below the latencies, or it is the bottleneck.
        objectives: in the order of ``OBJECTIVES``.
    """

    policy: str
    seed: int
    requests: int
    answered: int
    failed: int
    unanswered: int
    latency_p50_s: float
    latency_p99_s: float
    hit_rate: float
    steps_skipped: float
    lag_p99_s: float
    objectives: tuple[Objective, ...]


def summarise(policy: str, seed: int, replies: Sequence[Reply], seconds: float, yardstick: Yardstick) -> Run:
    accounts = [reply.account for reply in replies if reply.account is not None]
    answered, unanswered = sum(reply.answered for reply in replies), sum(r.trouble == UNANSWERED for r in replies)
    p50, p99 = _percentiles(replies)
    return Run(
        policy=policy,
        seed=seed,
        requests=len(replies),
        answered=answered,
        failed=len(replies) - answered - unanswered,
        unanswered=unanswered,
        latency_p50_s=p50,
        latency_p99_s=p99,
        hit_rate=mean(account.hit for account in accounts) if accounts else 0.0,
        steps_skipped=mean(account.skipped for account in accounts) if accounts else 0.0,
        lag_p99_s=float(np.percentile([reply.sent_s - reply.due_s for reply in replies], 99)) if replies else 0.0,
        objectives=tuple(_objective(times * yardstick.unloaded_s, replies, seconds) for times in OBJECTIVES),
    )


def _objective(limit_s: float, replies: Sequence[Reply], seconds: float) -> Objective:
    met = sum(reply.answered and reply.latency_s <= limit_s for reply in replies)
    return Objective(limit_s, met / len(replies) if replies else 1.0, met / seconds, len(replies) - met)


def _percentiles(replies: Sequence[Reply]) -> tuple[float, float]:
    waits_s = [reply.latency_s for reply in replies if reply.trouble in ("", UNANSWERED)]
    p50, p99 = np.percentile(waits_s, [50, 99]).tolist() if waits_s else (np.nan, np.nan)
    return p50, p99


@dataclass(frozen=True)
class Spread:
    """Over runs with different seeds."""

    mean: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(mean(values), min(values), max(values))


@dataclass
class Replay:
    """All runs so far, with their replies and the pictures that came.

    ``cut_short``: why that is not all that was asked for; empty if it is.
    """

    yardstick: Yardstick
    runs: list[Run] = field(default_factory=list)
    replies: dict[tuple[str, int], list[Reply]] = field(default_factory=dict)
    pictures: dict[tuple[str, int], list[tuple[WorkItem, np.ndarray]]] = field(default_factory=dict)
    cut_short: str = ""

    @property
    def policies(self) -> list[str]:
        return list(dict.fromkeys(run.policy for run in self.runs))

    def of(self, policy: str) -> list[Run]:
        return [run for run in self.runs if run.policy == policy]

    def replies_of(self, policy: str) -> list[Reply]:
        """Of all its runs that came to their end."""
        return [reply for run in self.of(policy) for reply in self.replies[policy, run.seed]]


# Over time ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Course:
    """A policy over the time of the trace, in windows; arrays [windows]. Windows without a request hold NaN.

    ``offered_per_s``: requests a second that were due; ``latency_p50_s``, ``latency_p99_s``: by when they were due.
    """

    middles_s: np.ndarray
    offered_per_s: np.ndarray
    latency_p50_s: np.ndarray
    latency_p99_s: np.ndarray
    attainment: np.ndarray


def course(replies: Sequence[Reply], runs: int, seconds: float, limit_s: float, windows: int = 40) -> Course:
    """Of the replies of so many runs together."""
    edges = np.linspace(0, seconds, windows + 1)
    by_window: list[list[Reply]] = [[] for _ in range(windows)]
    for reply in replies:
        by_window[min(int(reply.due_s / seconds * windows), windows - 1)].append(reply)
    p50, p99 = np.array([_percentiles(own) for own in by_window]).T
    met = [_objective(limit_s, own, seconds).attainment if own else np.nan for own in by_window]
    return Course(
        middles_s=(edges[:-1] + edges[1:]) / 2,
        offered_per_s=np.array([len(own) for own in by_window]) / runs / (seconds / windows),
        latency_p50_s=p50,
        latency_p99_s=p99,
        attainment=np.array(met),
    )
