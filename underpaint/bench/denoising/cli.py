"""The command ``underpaint bench denoiser``."""

from __future__ import annotations

import argparse
from pathlib import Path

from underpaint.bench.common import options
from underpaint.bench.common.machine import Machine
from underpaint.bench.common.progress import Progress
from underpaint.bench.common.report import leave
from underpaint.bench.denoising import denoiser, report
from underpaint.bench.denoising.unet import BareUNet, RowShapes, candidate_setups
from underpaint.bench.serving.site import PATIENCE_S, server
from underpaint.build.shapes import Shapes
from underpaint.client.prompts import PROMPTS
from underpaint.client.serving import deployment_of
from underpaint.client.sync_client import Client
from underpaint.deployment import Variant
from underpaint.errors import Internal

_MAX_ROWS = 32


def add_parser(benches: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    bench = benches.add_parser(
        "denoiser",
        help="images a second through generate, against the bare UNet",
        description="Images a second at 16 requests at a time and at one, against the bare UNet on the same machine, "
        "on which a server named by --url must run, too.",
    )
    bench.add_argument("--variant", help="default: the large one of the repository")
    bench.add_argument("--rounds", type=int, default=3, help="default: 3")
    bench.add_argument("--seconds", type=float, default=20.0, help="of each measurement of the server (default: 20)")
    options.add_report(bench)
    options.add_server(bench)
    bench.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    options.at_least(args, rounds=1)
    deployment = deployment_of(args.model_repository)
    variant = deployment.variant(args.variant or deployment.large)
    job = denoiser.Job(variant.name, variant.num_inference_steps, variant.guidance_scale)
    ceiling = BareUNet(_unet(args.model_repository, variant), _row_shapes(args.model_repository, variant))
    pace = denoiser.Pace(rounds=args.rounds, served_s=args.seconds)
    setups = candidate_setups(_MAX_ROWS)
    machine = Machine.watched()
    with (
        server(args.url, args.model_repository) as url,
        Client(url, timeout_s=PATIENCE_S) as client,
        Progress(denoiser.measurements(setups, pace)) as progress,
    ):

        def paint(number: int) -> None:
            outcome = client.generate(PROMPTS[number % len(PROMPTS)], seed=number, variant=variant.name).outcome
            if outcome.steps_run != job.num_inference_steps or outcome.guidance_scale != job.guidance_scale:
                raise Internal(f"served {outcome.steps_run} steps at guidance {outcome.guidance_scale}, not {job}")

        def tell(doing: str) -> None:
            progress.doing(doing)
            progress.advance()

        client.wait_ready()
        measured = denoiser.measure(job, paint, ceiling, setups, pace, tell)
    summary = denoiser.summarise(measured)
    print(report.text(measured, summary))
    leave(report.to_json(measured, summary, pace, machine), args.json)
    return 0


def _unet(repository: Path, variant: Variant) -> Path:
    return repository / f"{variant.name}_unet" / "1" / "model.onnx"


def _row_shapes(repository: Path, variant: Variant) -> RowShapes:
    shapes, (width, height) = Shapes.read(repository, variant.name), variant.sizes[0]
    side = shapes.vae_scale_factor
    return RowShapes(
        sample=(shapes.latent_channels, height // side, width // side),
        encoder_hidden_states=shapes.embeds,
    )
