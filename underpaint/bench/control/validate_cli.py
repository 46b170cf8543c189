"""The command ``underpaint bench simulator``."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

from underpaint.bench.common import options
from underpaint.bench.common.machine import Machine
from underpaint.bench.common.progress import Progress
from underpaint.bench.common.report import about, leave, rounded, table
from underpaint.bench.control.pacing import Effort
from underpaint.bench.control.profiling import SmallModels, measure, spent_by
from underpaint.bench.control.validate import PERCENTILES, Comparison, Trial, compare, simulated_s, trials
from underpaint.bench.demand.open_loop import Reply, open_loop
from underpaint.bench.demand.served import Account
from underpaint.bench.demand.workload import workload
from underpaint.bench.serving.site import PATIENCE_S, Site, stage, variant_painter
from underpaint.client.async_client import AsyncClient
from underpaint.client.serving import deployment_of
from underpaint.client.sync_client import Client
from underpaint.client.transport import connect
from underpaint.control.machine import machine_name
from underpaint.control.profile import Profile
from underpaint.deployment import Deployment
from underpaint.errors import InvalidArgument
from underpaint.policies import Settings

_DRAIN_S = 60.0
_WARM_UP = 5
_RUNS = 5  # of the simulator, for one of the server
_GOAL = 0.15
_EXAMPLES = """examples:
  underpaint bench simulator --json simulator.json                 # eight minutes: a profile, then eight runs
  underpaint profile --output p.json && underpaint bench simulator --profile p.json --policies vanilla,diffserve
"""


def add_parser(benches: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    bench = benches.add_parser(
        "simulator",
        help="the simulator against a server",
        description="The same requests, at several loads, through a server and through the simulator with a profile of "
        "this machine; how far the percentiles of latency are apart.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    bench.add_argument("--profile", type=Path, metavar="FILE", help="of this machine (default: measure one first)")
    bench.add_argument("--policies", default="vanilla,small,diffserve,hadis", help="default: %(default)s")
    bench.add_argument("--loads", default="0.3,0.6", help="shares of what the server can do (default: %(default)s)")
    bench.add_argument("--seconds", type=float, default=40.0, help="of each (default: 40)")
    bench.add_argument("--seed", type=int, default=0, help="default: 0")
    options.add_report(bench)
    options.add_server(bench)
    bench.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    deployment = deployment_of(args.model_repository)
    options.above_zero(args, "seconds")
    todo = trials(options.listed(args.policies), _loads(args.loads))
    profile = Profile.load(args.profile) if args.profile else None
    for misfit in profile.misfits(deployment, machine_name()) if profile else ():
        print(f"underpaint: warning: {misfit}", file=sys.stderr)
    machine = Machine.watched()
    with stage(args.url, args.model_repository) as (url, own):
        profile = profile or _profile(url, own, deployment, args.model_repository)
        found = [_try(url, trial, profile, Settings.of(deployment), args) for trial in todo]
    print(text(found))
    leave(rounded(_report(found, profile, machine, args)), args.json)
    return 0


def _profile(url: str, own: Site | None, deployment: Deployment, repository: Path) -> Profile:
    print("measuring a profile …", file=sys.stderr, flush=True)
    variants = [deployment.variant(name) for name in dict.fromkeys((deployment.small, deployment.large))]
    transport = connect(url)
    try:
        with Client(url, timeout_s=PATIENCE_S) as client:
            models = SmallModels(transport, deployment)
            return measure(variant_painter(client), models, variants, repository, Effort(cpu_s=spent_by(own)))
    finally:
        transport.close()


def _try(url: str, trial: Trial, profile: Profile, settings: Settings, args: argparse.Namespace) -> Comparison:
    rate_per_s = trial.rate_per_s(profile, settings)
    arrivals = trial.arrivals_s(rate_per_s, args.seconds, args.seed)
    label = f"{trial.policy} at {trial.load:.0%}"
    with Progress(len(arrivals), doing=label) as progress:
        replies = asyncio.run(_serve(url, trial.policy, arrivals, args.seed, progress))
    return compare(trial, rate_per_s, replies, simulated_s(profile, trial.policy, settings, arrivals, replies, _RUNS))


async def _serve(url: str, policy: str, arrivals_s: Sequence[float], seed: int, progress: Progress) -> list[Reply]:
    """What became of each request, by its number."""
    items = list(islice(workload(seed), len(arrivals_s)))
    replies: list[Reply] = []
    async with AsyncClient(url) as client:

        async def send(index: int) -> Account:
            item = items[index]
            picture = await client.generate(item.caption, seed=item.seed, policy=policy, cache="off")
            return Account.of(picture.outcome)

        for index in range(_WARM_UP):  # what a first image costs is no part of it
            await send(index % len(items))
        await open_loop(arrivals_s, send, _DRAIN_S, replies, lambda reply: progress.advance())
    if failed := [reply.trouble for reply in replies if not reply.answered]:
        print(f"underpaint: warning: {len(failed)} requests without an answer ({failed[0]})", file=sys.stderr)
    return sorted(replies, key=lambda reply: reply.index)


def text(found: Sequence[Comparison]) -> str:
    """A line a trial: percentiles as served and as simulated."""
    head = [f"p{p} {what}" for p in PERCENTILES for what in ("served", "simulated", "off by")]
    lines: list[Sequence[str]] = [("policy", "load", "requests", *head)]
    for each in found:
        cells = [
            cell
            for p in PERCENTILES
            for cell in (f"{each.served_s[p]:.3f}", f"{each.simulated_s[p]:.3f}", f"{each.errors[p]:+.0%}")
        ]
        lines.append((each.trial.policy, f"{each.trial.load:.0%}", str(each.requests), *cells))
    return table(lines)


def _report(
    found: Sequence[Comparison], profile: Profile, machine: Machine, args: argparse.Namespace
) -> dict[str, Any]:
    return {
        "worst_error": {f"p{p}": max(abs(each.errors[p]) for each in found) for p in PERCENTILES},
        "trials": [{**asdict(each), "errors": each.errors} for each in found],
        "goal": _GOAL,
        "profile": asdict(profile),
        "seconds": args.seconds,
        "seed": args.seed,
        **about(machine),
    }


def _loads(text: str) -> list[float]:
    try:
        return [float(each) for each in text.split(",")]
    except ValueError:
        raise InvalidArgument.of("loads", text, "numbers with commas between") from None
