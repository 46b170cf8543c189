"""The command ``underpaint profile``."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from underpaint.bench.common import options
from underpaint.bench.common.machine import Machine
from underpaint.bench.common.patience import insist
from underpaint.bench.common.progress import Progress
from underpaint.bench.common.report import table
from underpaint.bench.control.profiling import (
    Effort,
    SmallModels,
    load_scores,
    measure,
    pair_up,
    save_scores,
    spent_by,
    with_cascades,
)
from underpaint.bench.serving.site import PATIENCE_S, stage, variant_painter
from underpaint.cache.location import default_store
from underpaint.client.serving import deployment_of
from underpaint.client.sync_client import Client
from underpaint.client.transport import connect
from underpaint.control.profile import Profile
from underpaint.deployment import Deployment, Variant
from underpaint.errors import InvalidArgument

_FILE = "profile.json"
_EXAMPLES = """examples:
  underpaint profile                                   # every variant, two minutes; where the monitor looks for it
  underpaint profile --pareto 400 --save out/scores.csv --output out/profile.json
  underpaint simulate --profile out/profile.json --scores out/scores.csv --trace maf_1to8qps.txt --devices 1 --slo 4
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "profile",
        help="measure how fast each variant is, for allocators and the simulator",
        description="Latency of every variant against requests at a time, loading, and the small models beside them; "
        "with --pareto also what splitting requests between the small and the large variant is worth.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--variants", help="default: those that play a role")
    parser.add_argument("--concurrency", default="1,2,4,8,16", help="default: 1,2,4,8,16")
    parser.add_argument("--seconds", type=float, default=6.0, help="of each measurement (default: 6)")
    parser.add_argument("--pareto", type=int, default=0, metavar="N", help="captions to paint by both (default: none)")
    parser.add_argument("--save", type=Path, metavar="FILE.csv", help="keep the scores of these captions")
    parser.add_argument("--scores", type=Path, metavar="FILE.csv", help="take the scores from there; paint none")
    parser.add_argument("--output", type=Path, metavar="FILE", help=f"default: {_FILE} in the store of the cache")
    options.add_server(parser)
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    concurrencies, deployment = _check(args), deployment_of(args.model_repository)
    variants = _variants(args.variants, deployment)
    output = args.output or default_store() / _FILE
    scores = load_scores(args.scores) if args.scores else None
    Machine.watched()
    with stage(args.url, args.model_repository) as (url, own), Client(url, timeout_s=PATIENCE_S) as client:
        client.wait_ready()
        effort = Effort(concurrencies, args.seconds, spent_by(own))
        transport = connect(url)
        models = SmallModels(transport, deployment)
        if args.pareto:
            models.require_scorers()
        with Progress(len(variants) * len(concurrencies) + args.pareto) as progress:
            paint = variant_painter(client)
            profile = measure(paint, models, variants, args.model_repository, effort, progress.advance)
            if args.pareto:
                scores = pair_up(_painter(client), models, args.pareto, progress.advance)
        transport.close()
    if scores:
        profile = with_cascades(profile, scores, deployment.small, deployment.large)
    if scores and args.save:
        save_scores(scores, args.save)
        print(f"scores: {args.save}")
    profile.save(output)
    print(text(profile))
    print(f"profile: {output}")
    return 0


def text(profile: Profile) -> str:
    """A line a variant and concurrency, then the rest."""
    lines: list[Sequence[str]] = [("variant", "at a time", "images/s", "p50 s", "p95 s", "p99 s", "cores")]
    for variant in profile.variants:
        for each in variant.latencies:
            figures = (each.images_per_s, each.p50_s, each.p95_s, each.p99_s)
            cells = ("-" if f is None else f"{f:.3f}" for f in (*figures, each.cores))
            lines.append((variant.name, str(each.batch), *cells))
    costs = ", ".join(f"{name.removesuffix('_s')} {1000 * s:.1f} ms" for name, s in asdict(profile.costs).items() if s)
    loads = ", ".join(f"{each.name} {each.load_s:.2f} s" for each in profile.variants)
    cascades = f"\ncascades: {len(profile.cascades)} on the Pareto front" if profile.cascades else ""
    company = ", ".join(f"{each.name} {each.yields:.2f}" for each in profile.variants)
    return f"{table(lines)}\nloading: {loads}\nyielding: {company}\ncosts: {costs or 'none'}{cascades}"


def _painter(client: Client) -> Callable[[str, str, int], np.ndarray]:
    def paint(variant: str, prompt: str, seed: int) -> np.ndarray:
        picture = insist(lambda: client.generate(prompt, seed=seed, variant=variant, policy="vanilla", cache="off"))
        return picture.image

    return paint


def _variants(given: str | None, deployment: Deployment) -> list[Variant]:
    wanted = options.listed(given or f"{deployment.small},{deployment.large}")
    return [deployment.variant(name) for name in wanted]


def _check(args: argparse.Namespace) -> Sequence[int]:
    options.above_zero(args, "seconds")
    if args.pareto < 0 or (args.pareto and args.scores):
        raise InvalidArgument.of("pareto", args.pareto, "0 or more, and none with --scores")
    try:
        sizes = sorted({int(each) for each in args.concurrency.split(",")})
    except ValueError:
        sizes = []
    if not sizes or sizes[0] < 1:
        raise InvalidArgument.of("concurrency", args.concurrency, "numbers from 1 up, with commas between")
    return sizes
