"""``underpaint eval``: how good the models of the tiny family are, on pictures that the server painted."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from underpaint.bench.common import options
from underpaint.bench.common.machine import Machine
from underpaint.bench.common.progress import Progress
from underpaint.bench.common.report import about, leave
from underpaint.bench.demand.load import work_off
from underpaint.bench.judging.clip import Clip
from underpaint.bench.judging.flops import VariantCost
from underpaint.bench.models.instruments import Autoencoder, ClipReport, JudgeReport, draw, measure_clip, measure_judge
from underpaint.bench.models.variants import (
    EVALUATION_STREAM,
    Size,
    VariantReport,
    captions_of,
    curve_steps,
    measure_variant,
    scenes_of,
)
from underpaint.bench.serving.site import PATIENCE_S, server
from underpaint.build.tiny.scenes import stream
from underpaint.client.contact_sheet import Row, contact_sheet
from underpaint.client.serving import deployment_of
from underpaint.client.sync_client import Client
from underpaint.deployment import Deployment

_CONCURRENCY = 16
_LONE_REQUESTS = 12
_SHEET = 8  # columns of the contact sheet


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "variants",
        help="attribute accuracy, FID, compute and time of every variant",
        description="Has every variant paint captions that training never saw, on a server of its own, and has the "
        "judge read the pictures. Also measures the judge and the CLIP. Takes about ten minutes on two cores.",
    )
    parser.add_argument("--captions", type=int, default=512, help="default: 512; half as many held-out ones")
    parser.add_argument("--curve", type=int, default=128, help="captions at each other step count (default: 128)")
    options.add_report(parser)
    parser.add_argument("--out", type=Path, metavar="DIR", help="leave the contact sheet and the curves there")
    options.add_server(parser)
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    options.at_least(args, captions=2, curve=0)
    size = Size(args.captions, max(2, args.captions // 2), min(args.curve, args.captions))
    repository, deployment = args.model_repository, deployment_of(args.model_repository)
    clip = Clip(repository, deployment.family)
    scenes = list(stream(EVALUATION_STREAM, 1024))
    autoencoders = {name: Autoencoder(repository, name) for name in deployment.variants}
    judge = measure_judge(autoencoders, scenes[: size.unseen], seed=0)
    retrieval = measure_clip(clip, scenes)
    reports = _measure_variants(args, deployment, clip, size)
    print(_text(judge, retrieval, reports))
    report = _json(judge, retrieval, reports, size)
    leave(report, args.json)
    if args.out:
        _draw(args.out, reports, size)
    return 0


def _measure_variants(
    args: argparse.Namespace, deployment: Deployment, clip: Clip, size: Size
) -> dict[str, VariantReport]:
    total = sum(
        size.pictures + size.curve * len(curve_steps(v)) * bool(size.curve) + _LONE_REQUESTS
        for v in deployment.variants.values()
    )
    reports = {}
    own = server(args.url, args.model_repository)
    with own as url, Client(url, timeout_s=PATIENCE_S) as client, Progress(total, "picture") as progress:
        client.wait_ready()

        def paint(variant: str, captions: Sequence[str], steps: int | None) -> np.ndarray:
            progress.doing(f"{variant}{f', {steps} steps' if steps else ''}")
            pictures: dict[int, np.ndarray] = {}

            def one(number: int) -> None:
                answer = client.generate(captions[number], seed=number, variant=variant, num_inference_steps=steps)
                pictures[number] = answer.image
                progress.advance()

            work_off(one, len(captions), _CONCURRENCY)
            return np.stack([pictures[number] for number in range(len(captions))])

        for name, variant in deployment.variants.items():
            cost = VariantCost.read(args.model_repository, name)
            report = measure_variant(variant, cost, clip, paint, size)
            reports[name] = replace(report, ms_per_image=_lone_ms(client, name, progress))
    return reports


def _lone_ms(client: Client, variant: str, progress: Progress) -> float:
    """Median milliseconds of a request that is alone on the server."""
    progress.doing(f"{variant}, one at a time")
    times = []
    for number in range(_LONE_REQUESTS):
        began = time.perf_counter()
        client.generate("a small red circle in the centre, on a blue background", seed=number, variant=variant)
        times.append((time.perf_counter() - began) * 1e3)
        progress.advance()
    return median(times)


def _json(judge: JudgeReport, retrieval: ClipReport, reports: dict[str, VariantReport], size: Size) -> dict[str, Any]:
    return {
        "judge": {name: round(value, 4) for name, value in asdict(judge).items()},
        "retrieval_top1": {gallery: round(share, 4) for gallery, share in retrieval.top1.items()},
        "retrieval_order_agreement": round(retrieval.order_agreement, 4),
        "variants": {name: report.to_json() for name, report in reports.items()},
        "captions": asdict(size),
        **about(Machine.here()),
    }


def _text(judge: JudgeReport, retrieval: ClipReport, reports: dict[str, VariantReport]) -> str:
    lines = [
        f"judge      {judge.renders:.1%} of renders and {judge.reconstructions:.1%} of reconstructions without fault, "
        f"{judge.noise_unreadable:.1%} of noise unreadable",
        "retrieval  "
        + ", ".join(f"{share:.1%} of {gallery}" for gallery, share in retrieval.top1.items())
        + f"; order agreement {retrieval.order_agreement:.2f}",
        f"{'variant':<8} {'all':>6} {'held out':>9} {'FID':>8} {'GFLOP':>7} {'steps':>6} {'ms':>7}   "
        "colour  shape   size texture relation",
    ]
    for name, report in reports.items():
        shares = [report.unseen[key] for key in ("colour", "shape", "size", "texture", "relation")]
        lines.append(
            f"{name:<8} {report.unseen['all']:6.3f} {report.held_out['all']:9.3f} {report.fid:8.4f} "
            f"{report.gflop_per_image:7.2f} {report.steps:6d} {report.ms_per_image:7.0f}   "
            + "  ".join(f"{share:6.3f}" for share in shares)
        )
    return "\n".join(lines)


def _draw(folder: Path, reports: dict[str, VariantReport], size: Size) -> None:
    from underpaint.bench.models.plot import step_curves  # matplotlib only where it is asked for

    folder.mkdir(parents=True, exist_ok=True)
    scenes = scenes_of(size)[0][:_SHEET]
    smallest_first = sorted(reports.items(), key=lambda item: item[1].gflop_per_image)
    rows = [Row("truth", "drawn", list(draw(scenes)))]
    rows += [Row(name, f"{report.steps} steps", list(report.pictures[:_SHEET])) for name, report in smallest_first]
    contact_sheet("The tiny family", captions_of(scenes), rows).save(folder / "variants.png")
    step_curves({name: report.curve for name, report in smallest_first}, folder / "steps.png")
    print(f"pictures: {folder / 'variants.png'}, {folder / 'steps.png'}")
