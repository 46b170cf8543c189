"""``underpaint rollout``: a new version of a family beside the one that serves, with a share of its requests."""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import asdict
from pathlib import Path

from underpaint.cache.location import default_store
from underpaint.deployment import default_repository
from underpaint.errors import InvalidArgument
from underpaint.rollout.comparison import Comparison
from underpaint.rollout.fleet import DEFAULT, Server
from underpaint.rollout.repository import Repository
from underpaint.rollout.steps import Operator


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "rollout",
        help="try a new version of a family on a share of the requests",
        description="A version is a directory of that number in each component's folder of the model repository. "
        "Commands may be interrupted and run again. See docs/rollout.md.",
    )
    steps = parser.add_subparsers(metavar="STEP", required=True)
    start = _step(steps, "start", "load a version beside the one that serves, and send it a share of the requests")
    start.add_argument("family", help="the family that the repository serves")
    start.add_argument("--version", type=int, required=True, help="of the components")
    start.add_argument("--percent", type=float, default=10.0, help="of the requests; again: another share; default: 10")
    start.set_defaults(func=_start)
    status = _step(steps, "status", "compare the two versions: share, failures, latency, quality")
    status.add_argument("--json", action="store_true", help="as JSON")
    status.set_defaults(func=_status)
    _step(steps, "promote", "send it all requests").set_defaults(func=_promote)
    _step(steps, "finish", "with the servers stopped: make it the family's own version").set_defaults(func=_finish)
    _step(steps, "abort", "withdraw it, promoted or not").set_defaults(func=_abort)


def _step(steps: argparse._SubParsersAction[argparse.ArgumentParser], name: str, help: str) -> argparse.ArgumentParser:
    step = steps.add_parser(name, help=help)
    step.add_argument(
        "--server",
        action="append",
        metavar="HOST:HTTP:METRICS",
        help=f"ports of a server; repeatable, for all that share the store; default: {DEFAULT}",
    )
    step.add_argument("--model-repository", type=Path, metavar="DIR", help="of these servers; default: as serve")
    step.add_argument("--store", type=Path, metavar="DIR", help="of these servers; default: as serve")
    return step


def _start(args: argparse.Namespace) -> int:
    operator, family = _operator(args)
    if args.family != family:
        raise InvalidArgument.of("family", args.family, f"{family}, which the repository serves")
    operator.start(args.version, args.percent)
    return 0


def _status(args: argparse.Namespace) -> int:
    comparison = _operator(args)[0].compare()
    print(_json(comparison) if args.json else "\n".join(comparison.lines()))
    return 0


def _promote(args: argparse.Namespace) -> int:
    _operator(args)[0].promote()
    return 0


def _finish(args: argparse.Namespace) -> int:
    _operator(args)[0].finish()
    return 0


def _abort(args: argparse.Namespace) -> int:
    _operator(args)[0].abort()
    return 0


def _operator(args: argparse.Namespace) -> tuple[Operator, str]:
    repository = Repository(args.model_repository or default_repository())
    servers = [Server.at(address) for address in args.server or [DEFAULT]]
    operator = Operator(repository, (args.store or default_store()).absolute(), servers, print)
    return operator, repository.deployment().family


def _json(comparison: Comparison) -> str:
    """What was not measured is null."""
    raw = {**asdict(comparison), "routed": comparison.routed}
    raw["measured"] = [{name: _number(value) for name, value in each.items()} for each in raw["measured"]]
    return json.dumps({**raw, "routed": _number(comparison.routed)}, indent=2)


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value
