"""The command ``underpaint simulate``: allocators side by side, on imagined devices."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from underpaint.bench.common import options
from underpaint.bench.common.machine import now, versions
from underpaint.bench.common.progress import Progress
from underpaint.bench.common.report import INTERRUPTED, leave, rounded, table
from underpaint.bench.demand.traces import read_arrivals_s, read_trace, stretched
from underpaint.control.allocation import Allocator, Fleet, Form, Reuse
from underpaint.control.allocators import ALLOCATORS, by_name
from underpaint.control.allocators.modm import Modm
from underpaint.control.allocators.static import Static
from underpaint.control.demand import DIFFSERVE, HADIS, OURS, Smoothing
from underpaint.control.profile import Profile
from underpaint.control.published import PUBLISHED, published
from underpaint.control.simulation.jobs import MODM_PUBLISHED, RULES, Rules
from underpaint.control.simulation.population import Population, population, recorded
from underpaint.control.simulation.report import Summary, summarise
from underpaint.control.simulation.run import simulate
from underpaint.control.simulation.scenario import Scenario
from underpaint.errors import InvalidArgument

_OPENING_S = 20.0  # of the trace, whose demand the first allocation is made for
_EXAMPLES = """examples:
  underpaint simulate --profile hadis --trace maf_hourly_invocations.csv --low 1 --peak 64 --data data --devices 16
  underpaint simulate --profile out/profile.json --trace maf_1to8qps.txt --peak 6 --devices 1 --allocator hadis
"""


@dataclass(frozen=True)
class Order:
    """What is simulated, apart from the allocator.

    Attributes:
        judge: the profile that says how good a split is.
        peak_per_s: the highest demand of the trace.
        arrivals: the published form counts arrivals too.
    """

    profile: Profile
    judge: Profile
    population: Population
    arrivals_s: Sequence[float]
    fleet: Fleet
    peak_per_s: float
    seed: int
    arrivals: bool = False


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "simulate",
        help="how allocators would do on more devices than there are",
        description="Discrete events, with the policies of the server and the allocators of the monitor.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--profile", required=True, help=f"a JSON file, or {', '.join(PUBLISHED)}")
    parser.add_argument("--trace", type=Path, required=True, help="arrivals, played as they are, or scaled to --peak")
    parser.add_argument("--allocator", default="all", help=f"all (default), or some of {', '.join(ALLOCATORS)}")
    parser.add_argument("--form", choices=[*Form, "both"], default="both", help="of the allocators (default: both)")
    parser.add_argument("--devices", type=int, default=16, help="default: 16")
    parser.add_argument("--slo", type=float, metavar="SECONDS", help="default: that of the profile")
    parser.add_argument("--period", type=float, default=5.0, metavar="SECONDS", help="between allocations (default: 5)")
    parser.add_argument("--peak", type=float, metavar="QPS", help="requests a second where the trace is highest")
    parser.add_argument("--low", type=float, metavar="QPS", help="and where it is lowest (default: in proportion)")
    parser.add_argument("--seconds", type=float, help="length of a scaled trace (default: one for each of its rows)")
    parser.add_argument("--data", type=Path, metavar="DIR", help="folder with the published artifacts' scores")
    parser.add_argument(
        "--scores", type=Path, metavar="FILE.csv", help="scores recorded on a server, for a JSON profile"
    )
    parser.add_argument(
        "--arrivals", action="store_true", help="count arrivals in the published form too, not requests outstanding"
    )
    parser.add_argument("--hit-rate", type=float, default=0.0, help="of the cache, for modm (default: 0)")
    parser.add_argument("--skip", type=float, default=0.25, help="share of steps that a hit skips (default: 0.25)")
    parser.add_argument("--seed", type=int, default=0, help="default: 0")
    options.add_report(parser)
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    order = _order(args)
    forms = list(Form) if args.form == "both" else [Form(args.form)]
    results: dict[str, dict[str, Summary]] = {}
    skipped: dict[str, str] = {}
    complete = True
    try:
        for name in _names(args.allocator):
            for form in forms:
                try:
                    results.setdefault(name, {})[form] = compare(order, name, form)
                except InvalidArgument as error:
                    if args.allocator != "all":
                        raise
                    skipped[f"{name}, {form}"] = str(error)
    except KeyboardInterrupt:
        complete = False
    print(text(order, results))
    for name, why in skipped.items():
        print(f"left out: {name} ({why})")
    leave(_report(args, order, results, skipped, complete), args.json)
    return 0 if complete else INTERRUPTED


def compare(order: Order, name: str, form: Form) -> Summary:
    """One allocator on the order's requests, under the rules that belong to its form."""
    scenario = Scenario(
        profile=order.profile,
        population=order.population,
        arrivals_s=order.arrivals_s,
        fleet=order.fleet,
        rules=_rules(name, form, order.arrivals),
        smoothing=_smoothing(order.profile, form),
        opening_per_s=_rate(order.arrivals_s, _OPENING_S),
        seed=order.seed,
    )
    with Progress(len(order.arrivals_s), doing=f"{name}, {form}") as progress:
        finished = simulate(scenario, _allocator(name, form, order), progress.advance)
    return summarise(finished, order.judge, order.population)


def _rules(name: str, form: Form, arrivals: bool) -> Rules:
    rules = MODM_PUBLISHED if (name, form) == (Modm.name, Form.PUBLISHED) else RULES[form]
    return replace(rules, outstanding=rules.outstanding and not arrivals)


def _allocator(name: str, form: Form, order: Order) -> Allocator:
    if name == Static.name and form == Form.CORRECTED:
        return Static(form, design_per_s=order.peak_per_s)
    return by_name(name, form)


def _smoothing(profile: Profile, form: Form) -> Smoothing:
    if form == Form.CORRECTED:
        return OURS
    return HADIS if profile.cascades else DIFFSERVE


def text(order: Order, results: dict[str, dict[str, Summary]]) -> str:
    """A line an allocator and form."""
    unit = "accuracy" if order.population.correct else order.profile.loss_is or "loss"
    lines = [("allocator", "form", "violations", "dropped", "goodput/s", "p50 s", "p99 s", unit, "large", "swaps")]
    for name, forms in results.items():
        for form, each in forms.items():
            quality = each.accuracy if each.accuracy is not None else each.loss
            lines.append(
                (
                    name,
                    str(form),
                    f"{each.violation_rate:.4f}",
                    f"{each.dropped:.4f}",
                    f"{each.goodput_per_s:.2f}",
                    _number(each.p50_s),
                    _number(each.p99_s),
                    _number(quality),
                    f"{each.large_share:.2f}",
                    str(each.swaps),
                )
            )
    head = f"{order.profile.name}, {order.fleet.devices} devices, {order.fleet.slo_s:g} s promised, "
    return f"{head}{len(order.arrivals_s)} requests, {order.peak_per_s:.3g}/s at the peak\n{table(lines)}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _names(given: str) -> list[str]:
    return list(ALLOCATORS) if given == "all" else given.split(",")


def _order(args: argparse.Namespace) -> Order:
    path = Path(args.profile)
    profile = Profile.load(path) if path.suffix == ".json" else published(args.profile, args.data)
    if args.scores:
        people = recorded(args.scores, profile.lightest.name, profile.heaviest.name)
    else:
        skips = {args.skip: 1.0} if args.hit_rate else {}
        people = population(profile, args.data, args.seed, Reuse(args.hit_rate, skips))
    for name in _names(args.allocator):
        by_name(name)
    slo_s = args.slo or profile.slo_s
    if not slo_s:
        raise InvalidArgument.of("slo", None, "seconds, since the profile promises nothing")
    arrivals = _arrivals(args)
    peak = args.peak or _peak(arrivals)
    # HADIS' planner knows the Pareto front; what its splits really come to lies anywhere between the configurations.
    judge = published("hadis-726", args.data) if profile.name == "hadis" and args.data else profile
    return Order(
        profile, judge, people, arrivals, Fleet(args.devices, slo_s, args.period), peak, args.seed, args.arrivals
    )


def _arrivals(args: argparse.Namespace) -> list[float]:
    for name in ("peak", "low", "seconds"):
        value = getattr(args, name)
        if value is not None and not (math.isfinite(value) and value > 0):
            raise InvalidArgument.of(name, value, "above 0")
    if args.peak is None:
        if args.low or args.seconds:
            raise InvalidArgument.of("peak", None, "a rate, where --low or --seconds scale the trace")
        return read_arrivals_s(args.trace)
    trace = read_trace(args.trace)
    low = args.peak * min(trace.demand) / max(trace.demand) if args.low is None else args.low
    if low > args.peak:
        raise InvalidArgument.of("low", low, f"up to the peak, {args.peak:g}")
    return stretched(trace, low, args.peak, args.seconds or float(len(trace.demand))).arrivals_s(args.seed)


def _rate(arrivals_s: Sequence[float], seconds: float) -> float:
    return sum(each < seconds for each in arrivals_s) / seconds


def _peak(arrivals_s: Sequence[float]) -> float:
    counts, _ = np.histogram(arrivals_s, bins=max(1, int(max(arrivals_s) // _OPENING_S)))
    return float(counts.max()) * len(counts) / max(arrivals_s)


def _report(
    args: argparse.Namespace,
    order: Order,
    results: dict[str, dict[str, Summary]],
    skipped: dict[str, str],
    complete: bool,
) -> dict[str, Any]:
    return rounded(
        {
            "allocators": {
                name: {str(form): asdict(each) for form, each in forms.items()} for name, forms in results.items()
            },
            "left_out": skipped,
            "complete": complete,
            "profile": order.profile.name,
            "source": order.profile.source,
            "loss_is": order.profile.loss_is,
            "trace": args.trace.name,
            "requests": len(order.arrivals_s),
            "peak_per_s": order.peak_per_s,
            "published_demand": "arrivals" if order.arrivals else "requests outstanding, as in the artifacts",
            "hit_rate": order.population.reuse.hit_rate,
            "fleet": asdict(order.fleet),
            "seed": order.seed,
            "versions": versions(("underpaint", "numpy", "highspy")),
            "date": now(),
        }
    )
