"""Contenders through a trace, one after the other, each with a cache of its own."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from statistics import median

import numpy as np

from underpaint.bench.cascades.contenders import Contender, Control, on_stage
from underpaint.bench.cascades.replay import OBJECTIVES, Replay, Yardstick, summarise
from underpaint.bench.common.progress import Progress
from underpaint.bench.demand.load import Window, closed_loop, rate_per_s
from underpaint.bench.demand.open_loop import Reply, open_loop
from underpaint.bench.demand.served import Account
from underpaint.bench.demand.traces import Schedule
from underpaint.bench.demand.workload import WorkItem, workload
from underpaint.bench.serving.site import PATIENCE_S, Site, variant_painter
from underpaint.client.async_client import AsyncClient
from underpaint.client.messages import Wishes
from underpaint.client.pictures import Picture
from underpaint.client.sync_client import Client

_CONCURRENCY = 16
_LONE_REQUESTS = 10
_SETTLE_S = 1.0  # in which the server drops what was withdrawn at the end of the run before


@dataclass(frozen=True)
class Order:
    """What a run is asked to do.

    Attributes:
        control: what the monitors of contenders with an allocator go by.
        peak: of the demand, in what the large model sustains.
        warm: requests that go ahead of every run, into its cache.
        promise: whether requests carry the last objective as their slo_ms.
    """

    contenders: tuple[Contender, ...]
    peak: float
    seconds: float
    seeds: int
    warm: int = 0
    sustain_s: float = 20.0
    control: Control | None = None
    promise: bool = False

    @property
    def drain_s(self) -> float:
        """How long answers are waited for when the trace has ended."""
        return max(10.0, 0.25 * self.seconds)


def measure_large(url: str, variant: str, sustain_s: float) -> Yardstick:
    """The large model by itself: one at a time, then as many at a time as fill its batches."""
    with Client(url, timeout_s=PATIENCE_S) as client:
        client.wait_ready()
        paint, lone_s = variant_painter(client), []
        for number in range(_LONE_REQUESTS + 1):
            began_s = time.perf_counter()
            paint(variant, number)
            lone_s.append(time.perf_counter() - began_s)
        window = Window(sustain_s, ramp_s=sustain_s / 4)
        cycles = closed_loop(lambda number: paint(variant, number), _CONCURRENCY, window)
    return Yardstick(rate_per_s(cycles), median(lone_s[1:]))  # the first one warms up


def replay_all(url: str, order: Order, plan: Schedule, yardstick: Yardstick, own: Site | None = None) -> Replay:
    """Every contender through the same realisation of the trace, then through the next; Ctrl-C ends it early."""
    replay = Replay(yardstick)
    tenants, slo_s = secrets.token_hex(4), OBJECTIVES[-1] * yardstick.unloaded_s
    try:
        for seed in range(order.seeds):
            arrivals_s = plan.arrivals_s(seed)
            for contender in order.contenders:
                name = contender.name
                slo_ms = round(slo_s * 1000) if order.promise else None
                visit = _Visit(url, contender, f"bench-{tenants}-{name.replace(' ', '')}-{seed}", seed, slo_ms)
                replies = replay.replies.setdefault((name, seed), [])
                pictures = replay.pictures.setdefault((name, seed), [])
                with on_stage(contender, own, order.control, slo_s):
                    asyncio.run(_run_one(visit, arrivals_s, order, replies, pictures))
                replay.runs.append(summarise(name, seed, replies, plan.seconds, yardstick))
    except KeyboardInterrupt:
        replay.cut_short = "interrupted"
    return replay


@dataclass(frozen=True)
class _Visit:
    """Who comes to which server, with a cache of whose own, with which realisation of the workload and promise."""

    url: str
    contender: Contender
    tenant: str
    seed: int
    slo_ms: int | None = None


async def _run_one(
    visit: _Visit,
    arrivals_s: Sequence[float],
    order: Order,
    replies: list[Reply],
    pictures: list[tuple[WorkItem, np.ndarray]],
) -> None:
    items = list(islice(workload(visit.seed), order.warm + len(arrivals_s)))
    what = f"{visit.contender.name}, {visit.seed + 1} of {order.seeds}"
    wishes: Wishes = {"tenant": visit.tenant, "slo_ms": visit.slo_ms}
    if visit.contender.policy is not None:
        wishes["policy"] = visit.contender.policy
    async with AsyncClient(visit.url) as client:

        async def serve(item: WorkItem) -> Picture:
            own: Wishes = {**wishes, "seed": item.seed}
            return await client.generate(item.caption, **own)

        async def send(index: int) -> Account:
            picture = await serve(items[order.warm + index])
            pictures.append((items[order.warm + index], picture.image))
            return Account.of(picture.outcome)

        if order.warm:
            with Progress(order.warm, doing=f"{what}: warming up") as progress:
                await _warm_up(serve, items[: order.warm], progress)
        with Progress(len(arrivals_s), "reply", what) as progress:
            await asyncio.sleep(_SETTLE_S)
            await open_loop(arrivals_s, send, order.drain_s, replies, lambda reply: progress.advance())


async def _warm_up(
    serve: Callable[[WorkItem], Awaitable[Picture]], items: Sequence[WorkItem], progress: Progress
) -> None:
    turn = asyncio.Semaphore(_CONCURRENCY)

    async def one(item: WorkItem) -> None:
        async with turn:
            await serve(item)
            progress.advance()

    await asyncio.gather(*map(one, items))
