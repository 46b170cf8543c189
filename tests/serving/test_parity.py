"""The served image is the image that diffusers makes from the same weights, prompt, noise and steps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderTiny,
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextModel, CLIPTokenizer

from tests.conftest import REPOSITORY
from tests.serving.triton_calls import PROMPT, generate, run_ensemble
from underpaint.diffusion.noise import gaussian

pytestmark = pytest.mark.server

SEED = 11


class _FlowMatchScheduler(FlowMatchEulerDiscreteScheduler):
    """diffusers has no pipeline for a UNet under flow matching; these two members are all that the call misses."""

    init_noise_sigma = 1.0

    def scale_model_input(self, sample: torch.Tensor, timestep: torch.Tensor | None = None) -> torch.Tensor:
        return sample


def pipeline(variant: str, scheduler: Any) -> StableDiffusionPipeline:
    """diffusers' own pipeline over the folders that Triton serves."""

    def folder(part: str) -> str:
        return str(REPOSITORY / f"{variant}_{part}" / "1")

    return StableDiffusionPipeline(
        vae=AutoencoderTiny.from_pretrained(folder("vae_decoder"), torch_dtype=torch.float32),
        text_encoder=CLIPTextModel.from_pretrained(folder("text_encoder"), dtype=torch.float32),
        tokenizer=CLIPTokenizer.from_pretrained(str(REPOSITORY / "tiny_tokenizer" / "1")),
        unet=UNet2DConditionModel.from_pretrained(folder("unet"), torch_dtype=torch.float32),
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def paint(variant: str, scheduler: Any, steps: int, guidance_scale: float) -> np.ndarray:
    """uint8 [64, 64, 3] by diffusers, from the noise that the server draws for the same seed."""
    pipe = pipeline(variant, scheduler)
    pipe.set_progress_bar_config(disable=True)
    side = 64 // pipe.vae_scale_factor
    noise = torch.from_numpy(gaussian(SEED, (1, pipe.unet.config.in_channels, side, side)))
    with torch.no_grad():
        result = pipe(PROMPT, num_inference_steps=steps, guidance_scale=guidance_scale, latents=noise, output_type="np")
    return to_uint8(result.images[0])


def to_uint8(pixels: np.ndarray) -> np.ndarray:
    return (pixels * 255).round().astype(np.uint8)


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    error = np.mean((a.astype(np.float64) - b.astype(np.float64)) ** 2)
    return float("inf") if error == 0 else float(10 * np.log10(255**2 / error))


def config(variant: str) -> dict[str, Any]:
    return DDIMScheduler.load_config(str(REPOSITORY / f"{variant}_denoiser" / "1" / "scheduler_config.json"))


CASES = {
    "ddim": ("tiny-s", DDIMScheduler),
    "euler": ("tiny-s", EulerDiscreteScheduler),
    "flow_match_euler": ("tiny-l", _FlowMatchScheduler),
    "dpm_solver_multistep": ("tiny-s", DPMSolverMultistepScheduler),
}


@pytest.mark.parametrize("guidance_scale", [0.0, 3.0])
@pytest.mark.parametrize("name", CASES)
def test_served_image_equals_diffusers(server: Any, name: str, guidance_scale: float) -> None:
    variant, scheduler_class = CASES[name]
    scheduler = scheduler_class.from_config(config(variant))
    expected = paint(variant, scheduler, steps=20, guidance_scale=guidance_scale)
    served, _ = generate(
        server.grpc_url,
        variant=variant,
        scheduler=name,
        seed=SEED,
        num_inference_steps=20,
        guidance_scale=guidance_scale,
    )
    assert served.std() > 1, "a flat image would match anything flat"
    assert psnr(served, expected) >= 40


@pytest.mark.parametrize("name", ["ddim", "flow_match_euler"])
def test_refining_equals_encoding_noising_and_denoising_with_diffusers(server: Any, name: str) -> None:
    variant, scheduler_class = CASES[name]
    steps, start_step, seed = 20, 12, 3
    image, _ = generate(server.grpc_url, variant=variant, seed=SEED, num_inference_steps=10)
    expected = refine(variant, scheduler_class.from_config(config(variant)), image, steps, start_step, seed)
    refined = run_ensemble(
        server.grpc_url,
        f"{variant}_refine",
        image=image,
        start_step=start_step,
        num_inference_steps=steps,
        seed=seed,
        scheduler=name,
    )
    assert psnr(refined["refined_image"], expected) >= 40
    assert refined["steps_run"] == steps - start_step


@torch.no_grad()
def refine(variant: str, scheduler: Any, image: np.ndarray, steps: int, start_step: int, seed: int) -> np.ndarray:
    """What ``<variant>_refine`` should do, by diffusers' classes: uint8 [64, 64, 3]."""
    pipe = pipeline(variant, scheduler)
    clean = pipe.vae.encode(torch.from_numpy(image).permute(2, 0, 1)[None] / 127.5 - 1).latents
    clean = clean * pipe.vae.config.scaling_factor
    noise = torch.from_numpy(gaussian(seed, tuple(clean.shape[1:])))[None]
    scheduler.set_timesteps(steps)
    x = add_noise(scheduler, clean, noise, scheduler.timesteps[start_step : start_step + 1])
    prompt_embeds, negative_prompt_embeds = pipe.encode_prompt(PROMPT, "cpu", 1, True, "")
    for t in scheduler.timesteps[start_step:]:
        both = pipe.unet(torch.cat([x, x]), t, torch.cat([negative_prompt_embeds, prompt_embeds])).sample
        negative, positive = both.chunk(2)
        x = scheduler.step(negative + 3.0 * (positive - negative), t, x).prev_sample
    pixels = pipe.vae.decode(x / pipe.vae.config.scaling_factor).sample
    return to_uint8(pipe.image_processor.postprocess(pixels, output_type="np")[0])


def add_noise(scheduler: Any, clean: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """diffusers names it differently, with the arguments in another order, for flow matching."""
    if isinstance(scheduler, FlowMatchEulerDiscreteScheduler):
        return scheduler.scale_noise(clean, t, noise)
    return scheduler.add_noise(clean, noise, t)
