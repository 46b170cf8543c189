"""The command ``underpaint bench policies``."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from underpaint.bench.common import options
from underpaint.bench.common.machine import Machine, now, versions
from underpaint.bench.common.report import INTERRUPTED, exit_code
from underpaint.bench.serving.site import needs_extra
from underpaint.errors import InvalidArgument
from underpaint.policies import POLICIES, Calibration, by_name

if TYPE_CHECKING:
    from underpaint.bench.policies.contest import Pace

_EXAMPLES = """examples:
  underpaint bench policies --policies vanilla,modm,nirvana --requests 2000 --out out/bench
  underpaint bench policies --policies vanilla,modm --requests 500 --warm 500 --out out/warm
  underpaint bench policies --policies modm,small,random-mix,random-source,retrieval --requests 1000 --out out/controls
  underpaint bench policies --policies modm,small --calibration a95.json --calibration a98.json --out out/frontier
"""


def add_parser(benches: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    bench = benches.add_parser(
        "policies",
        help="the same prompts and seeds through each policy: speed, quality, cost",
        description="The same prompts and seeds through each policy on the same server, at saturation; then the judge.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    bench.add_argument(
        "--policies",
        default="vanilla,modm,nirvana",
        metavar="P,…",
        help=f"some of: {', '.join(POLICIES)} (default: vanilla,modm,nirvana; vanilla is always measured)",
    )
    bench.add_argument("--requests", type=int, default=500, metavar="N", help="through each policy (default: 500)")
    bench.add_argument("--seed", type=int, default=0, metavar="S", help="of the workload (default: 0)")
    bench.add_argument(
        "--warm",
        type=int,
        default=0,
        metavar="N",
        help="fill the caches with so many requests first (default: 0, cold)",
    )
    bench.add_argument("--concurrency", type=int, default=16, metavar="N", help="requests under way (default: 16)")
    bench.add_argument(
        "--calibration",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="go by these thresholds instead of the repository's; of several, by each in turn, for the frontier",
    )
    bench.add_argument("--out", type=Path, required=True, metavar="DIR", help="results.json, plots, contact sheets")
    options.add_server(bench)
    bench.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    policies, calibrations = _policies(args.policies), [_calibration(path) for path in args.calibration]
    _check(args)
    with needs_extra():
        from underpaint.bench.policies import report
        from underpaint.bench.policies.arena import Arena, Order, entrants
        from underpaint.bench.policies.contest import Pace
    arena, machine = Arena.open(args.model_repository), Machine.watched()
    entered = tuple(entrants(policies, calibrations))
    order = Order(entered, args.requests, args.seed, args.warm, Pace(concurrency=args.concurrency), args.url)
    match = arena.play(order)
    if not match.results:
        print(f"underpaint: nothing to report: {match.contest.cut_short}", file=sys.stderr)
        return INTERRUPTED
    print(report.text(match.results))
    asked = _asked(args, policies, order.pace)
    record = report.Record(match, {entrant.name: entrant for entrant in entered}, asked, machine)
    report.write(record, args.out)
    print(f"results, plots and contact sheets: {args.out}")
    return exit_code(match.contest.cut_short)


def _policies(text: str) -> tuple[str, ...]:
    names = options.listed(text)
    for name in names:
        by_name(name)
    return names


def _check(args: argparse.Namespace) -> None:
    options.at_least(args, requests=1, warm=0, concurrency=1)
    if args.url and args.calibration:
        raise InvalidArgument.of(
            "calibration", str(args.calibration[0]), "only without --url: it takes a server of its own"
        )
    if args.out.exists() and not args.out.is_dir():
        raise InvalidArgument.of("out", str(args.out), "a folder; this is a file")


def _calibration(path: Path) -> Calibration:
    try:
        return Calibration.from_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError) as error:
        raise InvalidArgument.of(
            "calibration", str(path), f"a file that underpaint calibrate wrote ({error})"
        ) from None


def _asked(args: argparse.Namespace, policies: tuple[str, ...], pace: Pace) -> dict[str, Any]:
    return {
        "policies": list(policies),
        "requests": args.requests,
        "seed": args.seed,
        "warm": args.warm,
        "concurrency": pace.concurrency,
        "pace": asdict(pace),
        "calibrations": [str(path) for path in args.calibration],
        "server": args.url or "own",
        "versions": versions(),
        "date": now(),
    }
