"""Build a miniature of each family by its own recipe, serve it, and compare it with diffusers; the figures as JSON.

    python -m tests.build.families.measure --out docs/benchmarks/families.json

Each is built twice: in float32, which is served, and in the recipe's own precision, which is compared with torch only.
What is replaced of a recipe: sizes, where it runs, and that it has an embedder, whose weights only the hub has.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import torch
from diffusers import DiffusionPipeline

from tests.build.families.miniature_transformers import T5_TOKENS, write_checkpoint
from tests.build.families.miniatures import write_sd15, write_sdxl
from tests.serving.test_parity import psnr, to_uint8
from tests.serving.triton_calls import generate
from underpaint.bench.common.machine import Machine, now, versions
from underpaint.build.build_cli import find_recipe
from underpaint.build.making import Receipt
from underpaint.build.recipes import VariantRecipe
from underpaint.diffusion.noise import gaussian
from underpaint.server import EmbeddedServer, ServerOptions
from underpaint.server.control import ControlClient

PROMPT, SEED, STEPS = "a red circle above a blue one", 11, 6
PACKAGES = ("underpaint", "torch", "diffusers", "transformers", "onnx", "onnxscript", "onnxruntime", "nvidia-pytriton")


@dataclass(frozen=True)
class Miniature:
    """A family's recipe, what writes its checkpoint, and the sizes that its miniature is built for."""

    recipe: str
    write: Callable[[Path], Path]
    sizes: tuple[tuple[int, int], ...]
    long: bool = True  # whether it reads farther than CLIP


MINIATURES = (
    Miniature("sd15", write_sd15, ((64, 64), (96, 64)), long=False),
    Miniature("sdxl", write_sdxl, ((64, 64), (96, 64)), long=False),
    Miniature("sd35-medium", lambda folder: write_checkpoint("sd35", folder), ((32, 32), (32, 64))),
    Miniature("sana", lambda folder: write_checkpoint("sana", folder), ((32, 32), (32, 64))),
    Miniature("flux-dev", lambda folder: write_checkpoint("flux", folder), ((32, 32), (32, 64))),
)


@dataclass(frozen=True)
class Build:
    """``parity``: the largest difference to torch by component (of a decoder, in steps of 255)."""

    precision: str
    seconds: float
    peak_gib: float
    parity: dict[str, float | None]


def measure(miniature: Miniature, folder: Path) -> dict[str, Any]:
    checkpoint = miniature.write(folder / "checkpoint")
    (variant,) = find_recipe(miniature.recipe).variants
    small = replace(
        variant,
        sizes=miniature.sizes,
        kind="cpu",
        precision="float32",
        vae_precision="float32",
        max_sequence_length=T5_TOKENS if miniature.long else 0,
        max_rows=8,
    )
    mixed = replace(small, precision=variant.precision, vae_precision=variant.vae_precision)
    served = _built(small, checkpoint, folder / "served")
    other = _built(mixed, checkpoint, folder / "as_the_recipe_has_it")
    report = {"builds": [asdict(served), asdict(other)], **_served(small, checkpoint, folder / "served")}
    print(f"{miniature.recipe}: {json.dumps(report)}", file=sys.stderr)
    return report


def _built(variant: VariantRecipe, checkpoint: Path, repository: Path) -> Build:
    recipe = repository.with_suffix(".toml")
    recipe.write_text(_toml(variant), encoding="utf-8")
    began = time.monotonic()
    command = ["build", str(recipe), "--from", str(checkpoint), "--repository", str(repository)]
    process = subprocess.Popen(["underpaint", *command], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"underpaint {' '.join(command)} failed")
    receipts = {path.parents[1].name: Receipt.read(path.parent) for path in sorted(repository.glob("*/1/build.json"))}
    parity = {name: receipt.parity for name, receipt in receipts.items() if receipt is not None}
    return Build(variant.precision, round(time.monotonic() - began, 1), round(usage.ru_maxrss / 2**20, 2), parity)


def _toml(variant: VariantRecipe) -> str:
    """A recipe of one variant. JSON writes what TOML reads, but for tables."""
    given = {each.name: getattr(variant, each.name) for each in fields(variant)}
    table = given.pop("scheduler")
    lines = [f"{name} = {json.dumps(value)}" for name, value in given.items()]
    names = "\n".join(f'{each} = "{variant.name}"' for each in ("name", "small", "large"))
    pairs = ", ".join(f"{name} = {json.dumps(value)}" for name, value in table.items())
    return "\n".join([names, "", "[[variants]]", *lines, f"scheduler = {{ {pairs} }}", ""])


def _served(variant: VariantRecipe, checkpoint: Path, repository: Path) -> dict[str, Any]:
    """Whether every model of the repository is ready, and how near what is served is to diffusers' own (100: equal)."""
    pipeline = DiffusionPipeline.from_pretrained(str(checkpoint))
    pipeline.set_progress_bar_config(disable=True)
    models = {path.parent.name for path in repository.glob("*/config.pbtxt")}
    with tempfile.TemporaryDirectory() as store:
        options = ServerOptions(repository, http_port=0, grpc_port=0, metrics_port=0, store=Path(store))
        with EmbeddedServer(options) as server:
            address = urlsplit(server.http_url)
            ready = set(ControlClient(str(address.hostname), address.port or 80).ready_models())
            apart = {}
            for width, height in variant.sizes:
                for guidance in (1.0, 5.0):
                    wish = {"width": width, "height": height, "guidance_scale": guidance, "num_inference_steps": STEPS}
                    image, _ = generate(server.grpc_url, variant=variant.name, prompt=PROMPT, seed=SEED, **wish)
                    expected = _painted(pipeline, wish)
                    assert expected.std() > 1, "a flat image would match anything flat"
                    apart[f"{width}x{height}, guidance {guidance:g}"] = round(min(psnr(image, expected), 100.0), 1)
    return {"models": len(models), "models_ready": len(ready & models), "psnr_db": apart}


def _painted(pipeline: Any, wish: dict[str, Any]) -> np.ndarray:
    """uint8 [H, W, 3] by diffusers, from the noise that the server draws for the same seed."""
    kind, factor = type(pipeline).__name__, pipeline.vae_scale_factor
    side = (wish["height"] // factor, wish["width"] // factor)
    noise = torch.from_numpy(gaussian(SEED, (1, pipeline.vae.config.latent_channels, *side)))
    noise = pipeline._pack_latents(noise, *noise.shape) if kind == "FluxPipeline" else noise
    more = {} if kind.startswith("StableDiffusion") and "3" not in kind else {"max_sequence_length": T5_TOKENS}
    if kind == "SanaPipeline":
        more["use_resolution_binning"] = False  # miniatures have no size that it knows
    with torch.no_grad():
        images = pipeline(PROMPT, latents=noise, output_type="np", **wish, **more).images
    return to_uint8(images[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="JSON file")
    parser.add_argument("--families", default=",".join(each.recipe for each in MINIATURES), help="default: %(default)s")
    args = parser.parse_args()
    machine = Machine.watched()
    report: dict[str, Any] = {"measured_at": now(), "machine": asdict(machine), "versions": versions(PACKAGES)}
    report["families"] = {}
    for each in MINIATURES:
        if each.recipe in args.families.split(","):
            with tempfile.TemporaryDirectory() as folder:
                report["families"][each.recipe] = measure(each, Path(folder))
            args.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
