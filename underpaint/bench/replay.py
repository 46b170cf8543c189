"""``underpaint bench replay``: demand that does not wait for answers.

Requests are sent when a trace says so, whether or not earlier ones have been answered, and latency counts from that
moment. A generator that waits for answers would send less just when the server is slow, and leave the worst latencies
unmeasured ("coordinated omission").

The yardstick is the large model by itself, measured at the start of the run: what it sustains, and how long it takes
when nobody else asks. A request within twice (four times) that latency meets the objective.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from statistics import mean
from typing import Protocol

import numpy as np

from underpaint.bench.served import Account
from underpaint.bench.workload import WorkItem
from underpaint.errors import UnderpaintError

OBJECTIVES = (2, 4)  # times the unloaded latency of the large model


@dataclass(frozen=True)
class Reply:
    """What became of one request; seconds since the run began.

    Attributes:
        due_s: when it should be sent; sent_s: when it was.
        ended_s: when its answer came, or an error, or else when the run ended.
        trouble: why no picture came: the name of an error, or "unanswered" at the end of the run.
    """

    index: int
    due_s: float
    sent_s: float
    ended_s: float
    trouble: str = ""
    account: Account | None = None

    @property
    def answered(self) -> bool:
        return not self.trouble

    @property
    def latency_s(self) -> float:
        """From when it was due."""
        return self.ended_s - self.due_s


class Send(Protocol):
    """Has a request, by its number, served."""

    def __call__(self, index: int, /) -> Awaitable[Account]: ...


UNANSWERED = "unanswered"


async def open_loop(
    arrivals_s: Sequence[float],
    send: Send,
    drain_s: float,
    replies: list[Reply],
    tell: Callable[[Reply], None] = lambda reply: None,
) -> None:
    """Send every request when it is due, and wait ``drain_s`` seconds beyond the last for answers.

    Args:
        replies: what became of each is added here as soon as it is known, so that an interruption loses nothing.
    """
    loop = asyncio.get_running_loop()
    began = loop.time()

    async def one(index: int, due_s: float) -> None:
        sent_s = loop.time() - began
        try:
            account = await send(index)
            reply = Reply(index, due_s, sent_s, loop.time() - began, account=account)
        except UnderpaintError as error:
            reply = Reply(index, due_s, sent_s, loop.time() - began, type(error).__name__)
        except asyncio.CancelledError:
            replies.append(Reply(index, due_s, sent_s, loop.time() - began, UNANSWERED))
            raise
        replies.append(reply)
        tell(reply)

    under_way: set[asyncio.Task[None]] = set()
    for index, due_s in enumerate(arrivals_s):
        # Also when late: sleeping for no time lets answers be taken in.
        await asyncio.sleep(max(0.0, began + due_s - loop.time()))
        task = asyncio.create_task(one(index, due_s))
        under_way.add(task)
        task.add_done_callback(under_way.discard)
    if under_way:
        _, late = await asyncio.wait(under_way, timeout=drain_s)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)


# Judging --------------------------------------------------------------------------------------------------------


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
