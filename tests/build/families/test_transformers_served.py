"""SD 3.5, SANA and FLUX in miniature, built from a folder, served, and painted once more by diffusers itself."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import tritonclient.grpc as grpcclient
from diffusers import (
    DiffusionPipeline,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
)

from tests.build.families import miniature_transformers as miniature
from tests.serving.test_parity import psnr, to_uint8
from tests.serving.triton_calls import generate, generate_all, run_ensemble
from underpaint.build.checkpoint import Checkpoint
from underpaint.build.family import build
from underpaint.build.plan import plan_build
from underpaint.build.recipes import FamilyRecipe, VariantRecipe
from underpaint.diffusion.noise import gaussian
from underpaint.errors import InvalidArgument

pytestmark = pytest.mark.server

SIZES = ((32, 32), (32, 64))  # SANA's pipeline takes no other sides than multiples of 32
SEED, STEPS, GUIDANCE = 11, 6, 3.0
PROMPT = "A red circle, above a blue one - and more words than CLIP has room for"
NEGATIVE = "blue"


def variant(name: str) -> VariantRecipe:
    return VariantRecipe(
        name,
        SIZES,
        num_inference_steps=STEPS,
        max_inference_steps=50,
        guidance_scale=GUIDANCE,
        max_guidance_scale=20.0,
        max_rows=6,
        tokenizer=name,
        max_sequence_length=miniature.T5_TOKENS,
        complex_human_instruction=name == "sana",
    )


RECIPE = FamilyRecipe("miniature", "sana", "sd35", tuple(variant(name) for name in miniature.PIPELINES))


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("checkpoints")
    return {name: miniature.write_checkpoint(name, folder / name) for name in miniature.PIPELINES}


@pytest.fixture(scope="module")
def built(checkpoints: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    repository = tmp_path_factory.mktemp("built") / "repository"
    plan = plan_build(RECIPE, {name: Checkpoint(folder) for name, folder in checkpoints.items()})
    build(plan, repository, fused=True, tell=print)
    return repository


@pytest.fixture(scope="module")
def served(built: Path) -> Iterator[Any]:
    from underpaint.server import EmbeddedServer, ServerOptions

    with EmbeddedServer(ServerOptions(model_repository=built, http_port=0, grpc_port=0, metrics_port=0)) as running:
        yield running


@pytest.fixture(scope="module")
def pipelines(checkpoints: dict[str, Path]) -> dict[str, Any]:
    pipelines = {name: DiffusionPipeline.from_pretrained(str(folder)) for name, folder in checkpoints.items()}
    for pipeline in pipelines.values():
        pipeline.set_progress_bar_config(disable=True)
    return pipelines


def paint(pipeline: Any, prompt: str, width: int, height: int, **more: Any) -> np.ndarray:
    """uint8 [H, W, 3] by diffusers, from the noise that the server draws for the same seed."""
    is_flux, factor = isinstance(pipeline, FluxPipeline), pipeline.vae_scale_factor
    channels = pipeline.vae.config.latent_channels
    noise = torch.from_numpy(gaussian(SEED, (1, channels, height // factor, width // factor)))
    noise = FluxPipeline._pack_latents(noise, *noise.shape) if is_flux else noise
    settings = {"num_inference_steps": STEPS, "guidance_scale": GUIDANCE, **more}
    if is_flux:
        settings.pop("negative_prompt", None)
    if "SanaPipeline" in type(pipeline).__name__:
        settings["use_resolution_binning"] = False  # miniatures have no size that it knows
    with torch.no_grad():
        images = pipeline(
            prompt,
            width=width,
            height=height,
            latents=noise,
            max_sequence_length=miniature.T5_TOKENS,
            output_type="np",
            **settings,
        ).images
    return to_uint8(images[0])


@pytest.mark.parametrize(("width", "height"), SIZES)
@pytest.mark.parametrize("name", miniature.PIPELINES)
def test_served_image_equals_diffusers(served: Any, pipelines: Any, name: str, width: int, height: int) -> None:
    size = {"width": width, "height": height}
    image, outcome = generate(
        served.grpc_url, variant=name, prompt=PROMPT, negative_prompt=NEGATIVE, seed=SEED, policy="vanilla", **size
    )
    expected = paint(pipelines[name], PROMPT, negative_prompt=NEGATIVE, **size)
    assert image.shape == (height, width, 3)
    assert expected.std() > 10, "a flat image would match anything flat"
    assert psnr(image, expected) >= 40, outcome
    other = paint(pipelines[name], "blue", negative_prompt=NEGATIVE, **size)
    assert psnr(other, expected) < 35, "whatever is asked for would match"


@pytest.mark.parametrize("name", miniature.PIPELINES)
def test_without_guidance(served: Any, pipelines: Any, name: str) -> None:
    """Or, for FLUX, with the weights told another scale."""
    size = {"width": 32, "height": 32}
    image, _ = generate(
        served.grpc_url, variant=name, prompt=PROMPT, seed=SEED, guidance_scale=1.0, policy="vanilla", **size
    )
    assert psnr(image, paint(pipelines[name], PROMPT, guidance_scale=1.0, **size)) >= 40


@pytest.mark.parametrize("name", miniature.PIPELINES)
def test_in_a_batch_with_other_sizes_and_step_counts(served: Any, pipelines: Any, name: str) -> None:
    wishes = [
        {"width": 32, "height": 32, "num_inference_steps": STEPS},
        {"width": 32, "height": 32, "num_inference_steps": 3},
        {"width": 32, "height": 64, "num_inference_steps": 4},
        {"width": 32, "height": 32, "num_inference_steps": 9, "guidance_scale": 5.0},
    ]
    same = {"variant": name, "prompt": PROMPT, "seed": SEED, "policy": "vanilla"}
    for wish, (image, _) in zip(wishes, generate_all(served.grpc_url, [same | wish for wish in wishes]), strict=True):
        assert psnr(image, paint(pipelines[name], PROMPT, **wish)) >= 40


@pytest.mark.parametrize("name", miniature.PIPELINES)
def test_an_image_is_encoded_and_refined(served: Any, pipelines: Any, name: str) -> None:
    image, _ = generate(served.grpc_url, variant=name, prompt=PROMPT, seed=SEED, width=32, height=32)
    vae = pipelines[name].vae
    with torch.no_grad():
        encoded = vae.encode(torch.from_numpy(image.copy()).permute(2, 0, 1)[None] / 127.5 - 1)
    latents = encoded.latent if hasattr(encoded, "latent") else encoded.latent_dist.mode()
    expected = (latents - (vae.config.get("shift_factor") or 0)) * vae.config.scaling_factor
    with grpcclient.InferenceServerClient(served.grpc_url) as client:
        pixels = grpcclient.InferInput("image", [1, *image.shape], "UINT8")
        pixels.set_data_from_numpy(image[None])
        given = client.infer(f"{name}_vae_encoder", [pixels]).as_numpy("latents")
    np.testing.assert_allclose(given, expected.numpy(), atol=1e-4)
    refined = run_ensemble(
        served.grpc_url,
        f"{name}_refine",
        image=image,
        scheduler="dpm_solver_multistep" if name == "sana" else "flow_match_euler",
        num_inference_steps=STEPS,
        start_step=STEPS - 1,
        width=32,
        height=32,
    )
    assert refined["steps_run"] == 1
    assert refined["refined_image"].shape == image.shape


def test_a_schedulers_sibling_is_diffusers_too(served: Any, pipelines: Any) -> None:
    """SANA by Euler, SD 3.5 by DPM-Solver++."""
    for name, scheduler, theirs in (
        ("sana", "flow_match_euler", FlowMatchEulerDiscreteScheduler(shift=3.0)),
        (
            "sd35",
            "dpm_solver_multistep",
            DPMSolverMultistepScheduler(flow_shift=3.0, use_flow_sigmas=True, prediction_type="flow_prediction"),
        ),
    ):
        pipeline = type(pipelines[name])(**{**pipelines[name].components, "scheduler": theirs})
        pipeline.set_progress_bar_config(disable=True)
        size = {"width": 32, "height": 32}
        image, _ = generate(served.grpc_url, variant=name, prompt=PROMPT, seed=SEED, scheduler=scheduler, **size)
        assert psnr(image, paint(pipeline, PROMPT, **size)) >= 40


@pytest.mark.parametrize(
    ("name", "sizes", "message"),
    [
        ("sd35", ((32, 30),), "sd35: sizes: got '32x30'; allowed: multiples of 4"),
        ("sd35", ((32, 32), (68, 32)), "sd35: sizes: got '68x32'; allowed: sides up to 64"),
        ("flux", ((34, 32),), "flux: sizes: got '34x32'; allowed: multiples of 4"),
        ("sana", ((34, 32),), "sana: sizes: got '34x32'; allowed: multiples of 4"),
    ],
)
def test_a_size_that_does_not_go_is_refused_before_anything_is_built(
    checkpoints: dict[str, Path], name: str, sizes: tuple[tuple[int, int], ...], message: str
) -> None:
    recipe = FamilyRecipe(name, name, name, (replace(variant(name), sizes=sizes),))
    with pytest.raises(InvalidArgument, match=message):
        plan_build(recipe, {name: Checkpoint(checkpoints[name])})


def test_an_instruction_goes_with_sana_only(checkpoints: dict[str, Path]) -> None:
    recipe = FamilyRecipe("flux", "flux", "flux", (replace(variant("flux"), complex_human_instruction=True),))
    with pytest.raises(InvalidArgument, match="complex_human_instruction: got True; allowed: false for FluxPipeline"):
        plan_build(recipe, {"flux": Checkpoint(checkpoints["flux"])})


def test_a_checkpoint_without_t5_is_refused(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    index = json.loads((checkpoints["sd35"] / "model_index.json").read_text())
    (tmp_path / "model_index.json").write_text(json.dumps({**index, "text_encoder_3": [None, None]}))
    recipe = FamilyRecipe("sd35", "sd35", "sd35", (variant("sd35"),))
    with pytest.raises(
        InvalidArgument, match=r"text encoders of the checkpoint: got .*; allowed: 3 for StableDiffusion3"
    ):
        plan_build(recipe, {"sd35": Checkpoint(tmp_path)})
