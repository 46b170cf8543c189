"""The built miniatures, served by the embedded server, paint what diffusers' own pipelines paint."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline

from tests.build.families.conftest import Built
from tests.serving.test_parity import psnr, to_uint8
from tests.serving.triton_calls import generate
from underpaint.diffusion.noise import gaussian

pytestmark = pytest.mark.server

PROMPT, SEED, STEPS = "red circle", 11, 6
PIPELINES = {"mini15": StableDiffusionPipeline, "minixl": StableDiffusionXLPipeline}
OPTIONS: dict[str, dict[str, Any]] = {"mini15": {"safety_checker": None}, "minixl": {"add_watermarker": False}}


@pytest.fixture(scope="module")
def unet_server(unet_pair: Built) -> Iterator[Any]:
    from underpaint.server import EmbeddedServer, ServerOptions

    options = ServerOptions(model_repository=unet_pair.repository, http_port=0, grpc_port=0, metrics_port=0)
    with EmbeddedServer(options) as running:
        yield running


@pytest.fixture(scope="module")
def pipelines(unet_checkpoints: Sequence[Path]) -> dict[str, Any]:
    folders = dict(zip(PIPELINES, unet_checkpoints, strict=True))
    loaded = {name: kind.from_pretrained(folders[name], **OPTIONS[name]) for name, kind in PIPELINES.items()}
    for pipeline in loaded.values():
        pipeline.set_progress_bar_config(disable=True)
    return loaded


@pytest.mark.parametrize("size", [(64, 64), (96, 64)], ids=str)
@pytest.mark.parametrize(("guidance_scale", "negative_prompt"), [(1.0, ""), (5.0, ""), (5.0, "blue")])
@pytest.mark.parametrize("variant", PIPELINES)
def test_served_image_equals_diffusers(
    unet_server: Any,
    pipelines: dict[str, Any],
    variant: str,
    guidance_scale: float,
    negative_prompt: str,
    size: tuple[int, int],
) -> None:
    width, height = size
    noise = torch.from_numpy(gaussian(SEED, (4, height // 4, width // 4)))[None]
    with torch.no_grad():
        painted = pipelines[variant](
            PROMPT,
            negative_prompt=negative_prompt or None,
            num_inference_steps=STEPS,
            guidance_scale=guidance_scale,
            width=width,
            height=height,
            latents=noise,
            output_type="np",
        )
    served, _ = generate(
        unet_server.grpc_url,
        variant=variant,
        prompt=PROMPT,
        negative_prompt=negative_prompt,
        seed=SEED,
        num_inference_steps=STEPS,
        guidance_scale=guidance_scale,
        width=width,
        height=height,
        cache="off",
    )
    assert served.std() > 1, "a flat image would match anything flat"
    assert psnr(served, to_uint8(painted.images[0])) >= 40


def test_prompts_make_a_difference(unet_server: Any) -> None:
    """Or parity would say nothing of the text."""
    for variant in PIPELINES:
        same = {"variant": variant, "seed": SEED, "guidance_scale": 20.0, "cache": "off"}
        one, other = (generate(unet_server.grpc_url, prompt=each, **same)[0] for each in ("red circle", "blue"))
        assert np.abs(one.astype(int) - other.astype(int)).max() > 2
