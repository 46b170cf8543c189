"""The command ``underpaint bench burst``."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from underpaint.bench.cascades.burst import Burst, Weathered, weathered
from underpaint.bench.cascades.contenders import Control, contenders
from underpaint.bench.cascades.replay import OBJECTIVES
from underpaint.bench.cascades.replaying import Order, measure_large, replay_all
from underpaint.bench.common import options
from underpaint.bench.common.machine import Machine
from underpaint.bench.common.report import about, exit_code, leave, rounded, table
from underpaint.bench.serving.site import site
from underpaint.client.serving import deployment_of
from underpaint.control.profile import Profile

_COLUMNS = ("policy", "requests", "goodput of sustained", "recovery s", "refused", "failed", "unanswered")


def add_parser(benches: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    bench = benches.add_parser(
        "burst",
        help="demand that jumps, and what becomes of it",
        description="Demand below what the large model sustains, a burst, and the same demand again. Every request "
        f"carries slo_ms: {OBJECTIVES[-1]} times the unloaded latency of the large model.",
    )
    bench.add_argument("--policies", default="vanilla,diffserve", metavar="P,…", help="default: vanilla,diffserve")
    bench.add_argument("--times", type=float, default=8.0, help="the burst, in the demand around it (default: 8)")
    bench.add_argument("--before", type=float, default=0.4, help="of what the large model sustains (default: 0.4)")
    bench.add_argument("--seconds", type=float, default=60.0, help="of the burst (default: 60)")
    bench.add_argument("--around", type=float, default=20.0, help="seconds before it, and after (default: 20)")
    bench.add_argument("--profile", type=Path, metavar="FILE", help="let a monitor decide, see bench replay")
    options.add_report(bench)
    options.add_repository(bench)
    bench.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    options.above_zero(args, "times", "before", "seconds", "around")
    control = None if args.profile is None else Control(Profile.load(args.profile))
    entered = contenders(options.listed(args.policies), [], control)
    machine, deployment = Machine.watched(), deployment_of(args.model_repository)
    with site(args.model_repository) as own:
        yardstick = measure_large(own.url, deployment.large, sustain_s=20.0)
        burst = Burst(args.before * yardstick.sustained_per_s, args.times, args.seconds, args.around)
        plan = burst.schedule()
        order = Order(entered, args.times * args.before, plan.seconds, seeds=1, control=control, promise=True)
        replay = replay_all(own.url, order, plan, yardstick, own)
    limit_s = OBJECTIVES[-1] * yardstick.unloaded_s
    found = {run.policy: weathered(burst, replay.replies[run.policy, 0], yardstick, limit_s) for run in replay.runs}
    print(text(found))
    report = {
        "policies": {name: rounded(asdict(each)) for name, each in found.items()},
        "large_model": rounded(asdict(yardstick)),
        "burst": rounded(asdict(burst)),
        **about(machine),
    }
    leave(report, args.json)
    return exit_code(replay.cut_short)


def text(found: Mapping[str, Weathered]) -> str:
    """A line a policy."""
    lines = [
        (
            name,
            str(each.requests),
            f"{each.goodput_ratio:.0%}",
            "-" if each.recovery_s is None else f"{each.recovery_s:.0f}",
            str(each.refused),
            str(each.failed),
            str(each.unanswered),
        )
        for name, each in found.items()
    ]
    return table([_COLUMNS, *lines])
