"""The command ``underpaint bench replay``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from underpaint.bench.cascades import replay_report
from underpaint.bench.cascades.contenders import Control, contenders
from underpaint.bench.cascades.replay import OBJECTIVES
from underpaint.bench.cascades.replay_quality import judge_replay
from underpaint.bench.cascades.replaying import Order, measure_large, replay_all
from underpaint.bench.common import options
from underpaint.bench.common.machine import Machine, now, versions
from underpaint.bench.common.report import INTERRUPTED, exit_code, leave
from underpaint.bench.demand.traces import read_trace, schedule
from underpaint.bench.judging.clip import Clip
from underpaint.bench.judging.quality import Embedder
from underpaint.bench.serving.site import needs_extra, stage
from underpaint.client.serving import deployment_of
from underpaint.control.profile import Profile
from underpaint.errors import InvalidArgument
from underpaint.policies import POLICIES

_EXAMPLES = """examples:
  underpaint bench replay --trace maf_1to8qps.txt --policies vanilla,modm,nirvana --json replay.json --out out/replay
  underpaint bench replay --trace maf_1to8qps.txt --policies vanilla,modm --peak 2.5 --seconds 300 --seeds 5 \\
      --json replay.json --out out/replay
  underpaint bench replay --trace maf_1to8qps.txt --policies diffserve,hadis --profile profile.json \\
      --static 0,0.25,0.5,0.75,1 --json control.json --out out/control
"""


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
        from underpaint.bench.cascades import replay_plot
    machine, deployment = Machine.watched(), deployment_of(args.model_repository)
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
        return INTERRUPTED  # before there was anything to report
    qualities = judge_replay(replay, _embedder(args.model_repository))
    print(replay_report.text(replay, qualities))
    record = replay_report.Record(replay, plan, _asked(args, order), machine, order.contenders, qualities)
    leave(record.to_json(), args.json)
    if args.out:
        replay_plot.plot(record, args.out)
        print(f"plots: {args.out}")
    return exit_code(replay.cut_short)


def _order(args: argparse.Namespace) -> Order:
    policies = options.listed(args.policies)
    control = None if args.profile is None else Control(Profile.load(args.profile))
    options.above_zero(args, "peak", "seconds")
    options.at_least(args, seeds=1, warm=0)
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
