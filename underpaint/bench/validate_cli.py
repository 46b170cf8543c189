"""The command ``underpaint bench simulator``."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tqdm import tqdm

from underpaint.bench.machine import Machine, now, versions
from underpaint.bench.replay import Reply, open_loop
from underpaint.bench.report import rounded, table, write_json
from underpaint.bench.served import Account
from underpaint.bench.serving import add_server_options, server
from underpaint.bench.validate import PERCENTILES, Comparison, Trial, compare, simulated_s, trials
from underpaint.cache.location import default_store
from underpaint.client.async_client import AsyncClient
from underpaint.client.prompts import PROMPTS
from underpaint.client.serving import deployment_of
from underpaint.control.profile import Profile
from underpaint.errors import InvalidArgument

_DRAIN_S = 60.0
_EXAMPLE = "  underpaint profile --output out/profile.json && underpaint bench simulator --profile out/profile.json"


def add_parser(benches: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    bench = benches.add_parser(
        "simulator",
        help="the simulator against a server",
        description="The same arrivals, at several loads, through a server and through the simulator with a profile of "
        "this machine; how far the percentiles of latency are apart.",
        epilog=f"example:\n{_EXAMPLE}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    bench.add_argument("--profile", type=Path, metavar="FILE", help="default: profile.json in the store of the cache")
    bench.add_argument("--loads", default="0.3,0.6,0.8", help="shares of what the server can do (default: 0.3,0.6,0.8)")
    bench.add_argument("--seconds", type=float, default=40.0, help="of each (default: 40)")
    bench.add_argument("--seed", type=int, default=0, help="default: 0")
    bench.add_argument("--json", type=Path, metavar="FILE", help="write the full report there")
    add_server_options(bench)
    bench.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    profile = Profile.load(args.profile or default_store() / "profile.json")
    if not args.seconds > 0:
        raise InvalidArgument.of("seconds", args.seconds, "above 0")
    todo = trials(profile, _loads(args.loads))
    machine = Machine.here()
    here = f"{machine.cpu}, {machine.cores} cores"
    for misfit in profile.misfits(deployment_of(args.model_repository), here):
        print(f"underpaint: warning: {misfit}", file=sys.stderr)
    machine.warn_if_busy()
    with server(args.url, args.model_repository) as url:
        found = [_try(url, trial, profile, args) for trial in todo]
    print(text(found))
    if args.json:
        write_json(rounded(_report(found, profile, machine, args)), args.json)
        print(f"report: {args.json}")
    return 0


def _try(url: str, trial: Trial, profile: Profile, args: argparse.Namespace) -> Comparison:
    arrivals, whose = trial.arrivals(profile, args.seconds, args.seed)
    label = f"{trial.name} at {trial.load:.0%}"
    with tqdm(total=len(arrivals), desc=label, leave=False, disable=not sys.stderr.isatty()) as bar:
        served = asyncio.run(_serve(url, arrivals, whose, bar))
    return compare(trial, served, simulated_s(profile, arrivals, whose))


async def _serve(url: str, arrivals_s: Sequence[float], whose: Sequence[str], bar: tqdm[None]) -> list[float]:
    """Latencies in seconds, from when each request was due."""
    replies: list[Reply] = []
    async with AsyncClient(url) as client:
        for variant in dict.fromkeys(whose):  # what a first image costs is no part of it
            await client.generate(PROMPTS[0], variant=variant, policy="vanilla", cache="off")

        async def send(index: int) -> Account:
            prompt = PROMPTS[index % len(PROMPTS)]
            picture = await client.generate(prompt, seed=index, variant=whose[index], policy="vanilla", cache="off")
            return Account.of(picture.outcome)

        await open_loop(arrivals_s, send, _DRAIN_S, replies, lambda reply: _advance(bar))
    if failed := [reply.trouble for reply in replies if not reply.answered]:
        print(f"underpaint: warning: {len(failed)} requests without an answer ({failed[0]})", file=sys.stderr)
    return [reply.latency_s for reply in replies]


def _advance(bar: tqdm[None]) -> None:
    bar.update()


def text(found: Sequence[Comparison]) -> str:
    """A line a trial: percentiles as served and as simulated."""
    head = [f"p{p} {what}" for p in PERCENTILES for what in ("served", "simulated", "off by")]
    lines: list[Sequence[str]] = [("variant", "load", "requests", *head)]
    for each in found:
        cells = [
            cell
            for p in PERCENTILES
            for cell in (f"{each.served_s[p]:.3f}", f"{each.simulated_s[p]:.3f}", f"{each.errors[p]:+.0%}")
        ]
        lines.append((each.trial.name, f"{each.trial.load:.0%}", str(each.requests), *cells))
    return table(lines)


def _report(
    found: Sequence[Comparison], profile: Profile, machine: Machine, args: argparse.Namespace
) -> dict[str, Any]:
    return {
        "worst_error": {f"p{p}": max(abs(each.errors[p]) for each in found) for p in PERCENTILES},
        "trials": [{**asdict(each), "errors": each.errors} for each in found],
        "profile": profile.name,
        "profile_measured_at": profile.measured_at,
        "seconds": args.seconds,
        "machine": asdict(machine),
        "versions": versions(),
        "date": now(),
    }


def _loads(text: str) -> list[float]:
    try:
        return [float(each) for each in text.split(",")]
    except ValueError:
        raise InvalidArgument.of("loads", text, "numbers with commas between") from None
