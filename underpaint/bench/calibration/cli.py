"""The command ``underpaint calibrate``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from underpaint.bench.calibration import lora_joins_cli
from underpaint.bench.calibration.pairs import SYSTEMS, Measurements, Pair, bins, thresholds
from underpaint.bench.calibration.promises import Rules, Service, cheapest, promise
from underpaint.bench.common import options
from underpaint.bench.common.machine import Machine, now
from underpaint.bench.common.report import INTERRUPTED, table
from underpaint.bench.judging.clip import Clip
from underpaint.bench.judging.flops import VariantCost
from underpaint.bench.judging.scores import Scores
from underpaint.bench.serving.dials import DOORS
from underpaint.bench.serving.site import needs_extra, server
from underpaint.client.serving import deployment_of
from underpaint.client.transport import connect
from underpaint.deployment import Deployment
from underpaint.errors import InvalidArgument
from underpaint.policies import Calibration
from underpaint.policies.calibration import OVER

_LINES = 24  # of a table
_SEED = 7000  # the workload of `bench policies` has 0 unless told otherwise: nothing is calibrated on what it asks
_EXAMPLES = """examples:
  underpaint calibrate                                    # measure, and write thresholds into the model repository
  underpaint calibrate --save out/measured.json --output out/a98.json
  underpaint calibrate --load out/measured.json --alpha 0.95 --output out/a95.json     # paints nothing
  underpaint calibrate --load out/measured.json --alpha 0.97 --over requests           # 97% over hits and misses
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "calibrate",
        help="measure how similar is similar enough, for policies that reuse what was painted",
        description="Paints queries from what is found for them, at every skip, has the judge compare them with full "
        "pictures of the same, and writes thresholds that keep a share of full quality. Ten minutes on two cores.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--alpha", type=float, default=0.98, help="share of full quality to keep (default: 0.98)")
    parser.add_argument(
        "--over",
        choices=OVER,
        default=OVER[0],
        help="keep it on every hit, or by all requests together, misses included, at the least cost (default: hits)",
    )
    parser.add_argument("--stored", type=int, default=200, metavar="N", help="requests to begin with (default: 200)")
    parser.add_argument("--queries", type=int, default=400, metavar="N", help="requests to try (default: 400)")
    parser.add_argument("--seed", type=int, default=_SEED, help=f"of the workload (default: {_SEED})")
    parser.add_argument("--save", type=Path, metavar="FILE", help="keep what was measured, for another --alpha")
    parser.add_argument("--load", type=Path, metavar="FILE", help="take what was measured from there; paint nothing")
    parser.add_argument("--output", type=Path, metavar="FILE", help="default: calibration.json of the model repository")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="draw quality by similarity for every skip")
    options.add_server(parser)
    parser.set_defaults(func=run)
    lora_joins_cli.add_parser(parser.add_subparsers(metavar="WHAT", help="instead, something else"))


def run(args: argparse.Namespace) -> int:
    _check(args)
    deployment = deployment_of(args.model_repository)
    measured = Measurements.load(args.load) if args.load else _measure(args, deployment)
    if args.save and measured.pairs:
        measured.save(args.save)
        print(f"measurements: {args.save}")
    if not measured.complete:
        print("underpaint: interrupted, so no thresholds are written", file=sys.stderr)
        return INTERRUPTED
    calibration = calibrate(measured, args.alpha, args.over)
    if problem := calibration.misfit(deployment):
        raise InvalidArgument(f"--load {args.load}: {problem}")
    for system in measured.pairs:
        print(text(system, measured, Rules(calibration.table(system), calibration.hard.get(system))))
    for path in _write(calibration, args):
        print(f"thresholds: {path}")
    if args.plot:
        with needs_extra():
            from underpaint.bench.calibration.plot import quality_by_similarity
        quality_by_similarity(measured, calibration, args.plot)
        print(f"plot: {args.plot}")
    return 0


def calibrate(measured: Measurements, alpha: float, over: str = OVER[0]) -> Calibration:
    """Thresholds for every system."""
    found = {system: _rules(measured, system, alpha, over) for system in SYSTEMS}
    hard = {system: rules.hard for system, rules in found.items() if rules.hard is not None}
    return Calibration(
        embedder=measured.embedder,
        small=measured.small,
        large=measured.large,
        alpha=alpha,
        **{system: rules.table for system, rules in found.items()},
        hard=hard,
        router=measured.router if hard else "",
        discriminator=measured.discriminator if hard else "",
        over=over,
        measured_at=measured.measured_at,
        measured_on=measured.measured_on,
    )


def _rules(measured: Measurements, system: str, alpha: float, over: str) -> Rules:
    if over == "requests":
        return cheapest(Service.of(measured, system), alpha)
    return Rules(thresholds(measured.pairs[system], alpha))


def text(system: str, measured: Measurements, found: Rules) -> str:
    """What was measured, a line a bin: quality at every skip, over full quality. And what to expect in service."""
    pairs = measured.pairs[system]
    lines = [("similarity", "pairs", "full", *(f"skip {skip:.0%}" for skip in _skips(pairs)))]
    for each in bins(pairs, _LINES):
        ratios = [f"{each.by_skip[skip] / max(each.full, 1e-9):.3f}" for skip in _skips(pairs)]
        lines.append((f"{each.similarity:.4f}", str(each.pairs), f"{each.full:.3f}", *ratios))
    rows = ", ".join(f"{row.skip:.0%} from {row.similarity:.4f}" for row in found.table.rows) or "never"
    expected = promise(Service.of(measured, system), found)
    kept = "" if expected.quality is None else f"{expected.quality:.1%} of full quality on hits, "
    easy = f"{expected.easy:.0%} left to the small variant (below {found.hard:.2f}), " if found.hard else ""
    summary = (
        f"from an empty store {expected.hit_rate:.0%} hits, {expected.steps_skipped:.0%} of steps skipped, {kept}{easy}"
        f"{expected.trace_quality:.1%} over all, at {expected.cost:.0%} of the computation"
    )
    return f"{system}: {rows}  ({summary})\n{table(lines)}\n"


def _skips(pairs: tuple[Pair, ...]) -> list[float]:
    return sorted(pairs[0].by_skip)


def _measure(args: argparse.Namespace, deployment: Deployment) -> Measurements:
    from underpaint.bench.calibration.campaign import Campaign, Plan
    from underpaint.bench.serving.studio import Studio

    plan = Plan.of(deployment, args.stored, args.queries, args.seed)
    embedder = Clip(args.model_repository, deployment.family)
    judged = deployment.router is not None and deployment.discriminator is not None
    scorers = Scores(args.model_repository, deployment.family) if judged else None
    machine = Machine.here()
    with server(args.url, args.model_repository) as url:
        transport = connect(url)
        campaign = Campaign(plan, Studio(transport, deployment), embedder, scorers)
        complete = campaign.paint()
        transport.close()
    requests = campaign.requests()
    return Measurements(
        embedder=deployment.embedder,
        small=deployment.variant(deployment.refiner).weights,
        large=deployment.variant(deployment.large).weights,
        pairs=campaign.pairs(requests),
        requests=requests,
        embeddings=campaign.embeddings(),
        run_cost=_run_cost(args.model_repository, deployment),
        router=deployment.router.weights if scorers and deployment.router else "",
        discriminator=deployment.discriminator.weights if scorers and deployment.discriminator else "",
        measured_at=now(),
        measured_on=f"{machine.cpu}, {machine.cores} cores",
        complete=complete,
    )


def _run_cost(repository: Path, deployment: Deployment) -> dict[str, float]:
    """A refinement is the end of a run of the refiner; the others go on with the large variant's own."""
    refiner, large = deployment.variant(deployment.refiner), deployment.variant(deployment.large)
    refined = VariantCost.read(repository, refiner.name).image(refiner.refinement_steps, refiner.guidance_scale, True)
    full = VariantCost.read(repository, large.name).image(large.num_inference_steps, large.guidance_scale, False)
    return {"modm": refined / full, "modm_text": refined / full, "nirvana": 1.0, "retrieval": 1.0}


def _write(calibration: Calibration, args: argparse.Namespace) -> list[Path]:
    if args.output:
        args.output.parent.mkdir(parents=True, exist_ok=True)
        args.output.write_text(calibration.to_json(), encoding="utf-8")
        return [args.output]
    return [calibration.save(args.model_repository / door / "1") for door in DOORS]


def _check(args: argparse.Namespace) -> None:
    if not 0 < args.alpha <= 1:
        raise InvalidArgument.of("alpha", args.alpha, "a share of full quality, above 0 and up to 1")
    options.at_least(args, stored=1, queries=1)
    if args.load and (args.save or args.url):
        raise InvalidArgument.of("load", str(args.load), "without --save and --url: nothing is measured")
