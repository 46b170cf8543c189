"""The command ``underpaint bench replay``."""

from __future__ import annotations

import argparse
import asyncio
import secrets
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from underpaint.bench.cascades.contenders import Contender, Control, contenders, on_stage
from underpaint.bench.cascades.replay import OBJECTIVES, Replay, Yardstick, summarise
from underpaint.bench.cascades.replay_quality import judge_replay
from underpaint.bench.common import options
from underpaint.bench.common.machine import Machine, now, versions
from underpaint.bench.common.progress import Progress
from underpaint.bench.common.report import write_json
from underpaint.bench.demand.load import Window, closed_loop, rate_per_s
from underpaint.bench.demand.open_loop import Reply, open_loop
from underpaint.bench.demand.served import Account
from underpaint.bench.demand.traces import Schedule, read_trace, schedule
from underpaint.bench.demand.workload import WorkItem, workload
from underpaint.bench.judging.clip import Clip
from underpaint.bench.judging.quality import Embedder
from underpaint.bench.serving.site import PATIENCE_S, Site, needs_extra, stage, variant_painter
from underpaint.client.async_client import AsyncClient
from underpaint.client.messages import Wishes
from underpaint.client.pictures import Picture
from underpaint.client.serving import deployment_of
from underpaint.client.sync_client import Client
from underpaint.control.profile import Profile
from underpaint.errors import InvalidArgument
from underpaint.policies import POLICIES

_CONCURRENCY = 16
_LONE_REQUESTS = 10
_SETTLE_S = 1.0  # in which the server drops what was withdrawn at the end of the run before
_INTERRUPTED = 130
_EXAMPLES = """examples:
  underpaint bench replay --trace maf_1to8qps.txt --policies vanilla,modm,nirvana --json replay.json --out out/replay
  underpaint bench replay --trace maf_1to8qps.txt --policies vanilla,modm --peak 2.5 --seconds 300 --seeds 5 \\
      --json replay.json --out out/replay
  underpaint bench replay --trace maf_1to8qps.txt --policies diffserve,hadis --profile profile.json \\
      --static 0,0.25,0.5,0.75,1 --json control.json --out out/control
"""


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


def add_parser(benches: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    bench = benches.add_parser(
        "replay",
        help="demand that follows a trace and does not wait: latencies, objectives met, goodput",
        description="Requests that come as a trace says, answered or not. Latency counts from when they were due.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    bench.add_argument("--trace", type=Path, required=True, metavar="FILE", help="arrival_ms,id lines, or invocations")
    bench.add_argument(
        "--policies",
        default="vanilla,modm,nirvana",
        metavar="P,…",
        help=f"some of: {', '.join(POLICIES)} (default: vanilla,modm,nirvana)",
    )
    bench.add_argument(
        "--peak", type=float, default=1.5, help="of the demand, in what the large model sustains (default: 1.5)"
    )
    bench.add_argument("--seconds", type=float, default=120.0, help="that the trace is made to last (default: 120)")
    bench.add_argument("--seeds", type=int, default=3, help="realisations of the trace, for each policy (default: 3)")
    bench.add_argument(
        "--warm", type=int, default=0, metavar="N", help="fill caches with so many requests first (default: 0, cold)"
    )
    bench.add_argument(
        "--profile",
        type=Path,
        metavar="FILE",
        help="of `underpaint profile`: let a monitor decide for policies that an allocator of that name exists for",
    )
    bench.add_argument(
        "--static", default="", metavar="SHARE,…", help="also static splits that give these shares to the small variant"
    )
    bench.add_argument(
        "--promise", action="store_true", help=f"requests carry the {OBJECTIVES[-1]}× objective as their slo_ms"
    )
    options.add_report(bench)
    bench.add_argument("--out", type=Path, metavar="DIR", help="leave plots there")
    options.add_server(bench)
    bench.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    order, trace = _order(args), read_trace(args.trace)
    with needs_extra():
        from underpaint.bench.cascades import replay_report
    machine, deployment = Machine.here(), deployment_of(args.model_repository)
    machine.warn_if_busy()
    with stage(args.url, args.model_repository) as (url, own):
        yardstick = measure_large(url, deployment.large, order.sustain_s)
        print(
            f"{deployment.large}: {yardstick.sustained_per_s:.2f} images/s sustained, "
            f"{yardstick.unloaded_s * 1000:.0f} ms unloaded",
            file=sys.stderr,
        )
        plan = schedule(trace, order.peak * yardstick.sustained_per_s, order.seconds)
        replay = replay_all(url, order, plan, yardstick, own)
    if not replay.runs:
        return _INTERRUPTED  # before there was anything to report
    qualities = judge_replay(replay, _embedder(args.model_repository))
    print(replay_report.text(replay, qualities))
    record = replay_report.Record(replay, plan, _asked(args, order), machine, order.contenders, qualities)
    if args.json:
        write_json(record.to_json(), args.json)
        print(f"report: {args.json}")
    if args.out:
        replay_report.plot(record, args.out)
        print(f"plots: {args.out}")
    if replay.cut_short:
        print(f"underpaint: not complete: {replay.cut_short}", file=sys.stderr)
        return _INTERRUPTED
    return 0


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


def _order(args: argparse.Namespace) -> Order:
    policies = tuple(dict.fromkeys(name.strip() for name in args.policies.split(",") if name.strip()))
    control = None if args.profile is None else Control(Profile.load(args.profile))
    for name in ("peak", "seconds"):
        if not getattr(args, name) > 0:
            raise InvalidArgument.of(name, getattr(args, name), "more than 0")
    for name, least in (("seeds", 1), ("warm", 0)):
        if getattr(args, name) < least:
            raise InvalidArgument.of(name, getattr(args, name), f"{least} or more")
    entered = contenders(policies, _shares(args.static), control)
    if args.url and any(each.decided for each in entered):
        raise InvalidArgument.of(
            "url", args.url, "nothing, with --static and --profile: they decide a server's settings"
        )
    return Order(entered, args.peak, args.seconds, args.seeds, args.warm, control=control, promise=args.promise)


def _shares(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise InvalidArgument.of("static", text, "shares, 0 to 1, with commas between") from None


def _embedder(repository: Path) -> Embedder | None:
    """The family's CLIP, where the repository has one."""
    return Clip(repository, deployment_of(repository).family) if (repository / "embed_text").is_dir() else None


def _asked(args: argparse.Namespace, order: Order) -> dict[str, Any]:
    return {
        "trace": args.trace.name,
        "policies": [contender.name for contender in order.contenders],
        "profile": args.profile.name if args.profile else None,
        "peak": order.peak,
        "seconds": order.seconds,
        "seeds": order.seeds,
        "warm": order.warm,
        "promise": order.promise,
        "objectives": [f"{times} × unloaded latency of the large model" for times in OBJECTIVES],
        "server": args.url or "own",
        "versions": versions(),
        "date": now(),
    }
