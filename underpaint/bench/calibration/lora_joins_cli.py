"""``underpaint calibrate lora``: options, painting, and the file that the denoiser reads."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from itertools import islice

import numpy as np

from underpaint.addons import sources
from underpaint.addons.joins import JoinRule
from underpaint.addons.location import lora_sources
from underpaint.bench.calibration import lora_joins
from underpaint.bench.common import options
from underpaint.bench.common.machine import now
from underpaint.bench.common.report import leave, table
from underpaint.bench.demand.workload import WorkItem, workload
from underpaint.bench.serving.site import needs_extra, server
from underpaint.client.serving import deployment_of
from underpaint.client.transport import connect
from underpaint.errors import InvalidArgument

_SEED = 7100


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser("lora", help="how late LoRAs may join", description=lora_joins.__doc__)
    parser.add_argument("--variant", help="default: the first that takes LoRAs")
    parser.add_argument("--loras", metavar="NAME,…", help="default: all in the store's folders")
    parser.add_argument("--captions", type=int, default=16, help="for each LoRA (default: 16)")
    parser.add_argument("--keep", type=float, default=0.9, help="share of what LoRAs do, to be kept (default: 0.9)")
    options.add_report(parser)
    parser.add_argument("--dry-run", action="store_true", help="write nothing into the model repository")
    options.add_server(parser)
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    if not 0 <= args.keep <= 1:
        raise InvalidArgument.of("--keep", args.keep, "0 to 1")
    options.at_least(args, captions=1)
    deployment = deployment_of(args.model_repository)
    able = [name for name, each in deployment.variants.items() if each.loras]
    variant = deployment.variant(args.variant or (able[0] if able else deployment.large))
    if not variant.loras:
        raise InvalidArgument.of("--variant", variant.name, f"one that takes LoRAs: {', '.join(able) or 'none'}")
    there = sources.names(lora_sources(args.model_repository))
    loras = options.listed(args.loras) if args.loras else there
    items = list(islice(workload(_SEED), args.captions))
    with server(args.url, args.model_repository) as url:
        joins = _measure(url, args, variant.name, items, loras, variant.num_inference_steps)
    chosen = lora_joins.latest(joins, args.keep)
    rows = [(f"{join.step} of {join.steps}", f"{join.lost:.3f}", f"{join.accuracy:.3f}") for join in joins]
    print(table([("joined at", "lost", "accuracy"), *rows]))
    print(f"{variant.name}: LoRAs that are not in memory join at {chosen.share:.0%} of the steps")
    report = {"variant": variant.name, "loras": loras, "keep": args.keep, "captions": args.captions}
    report |= {"joins": [asdict(join) for join in joins], "share": chosen.share, "date": now()}
    leave(report, args.json)
    if not args.dry_run:
        folder = args.model_repository / f"{variant.name}_denoiser" / str(deployment.version)
        path = JoinRule(chosen.share, variant.weights).save(folder)
        print(f"{path}; the denoiser reads it when it is loaded")
    return 0


def _measure(
    url: str, args: argparse.Namespace, variant: str, items: Sequence[WorkItem], loras: Sequence[str], steps: int
) -> tuple[lora_joins.Join, ...]:
    with needs_extra():
        from underpaint.bench.judging.quality import attribute_accuracy
        from underpaint.bench.serving.studio import Studio
        from underpaint.build.tiny.judge import judge

    transport = connect(url)
    studio = Studio(transport, deployment_of(args.model_repository))

    def paint(item: WorkItem, lora: str | None, step: int) -> np.ndarray:
        return studio.with_lora(variant, item, lora, step).image

    def accuracy(pictures: np.ndarray, asked: Sequence[WorkItem]) -> float:
        verdicts = judge(pictures, [item.scene for item in asked])
        return float(np.mean([attribute_accuracy(verdict) for verdict in verdicts]))

    try:
        return lora_joins.measure(paint, accuracy, items, loras, steps, lambda name: print(f"{name} …", flush=True))
    finally:
        transport.close()
