"""What a denoiser accepts, and the trajectory that it makes of it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from underpaint.diffusion.conditioning import Conditioning
from underpaint.diffusion.noise import gaussian
from underpaint.diffusion.orders import Canvas, Order, begin
from underpaint.diffusion.schedulers import load_scheduler
from underpaint.errors import InvalidArgument

CANVAS = Canvas(latent_channels=4, vae_scale_factor=8, sizes=((64, 64), (128, 64)))
SHAPE = (4, 8, 8)
SCHEDULERS = {"ddim": load_scheduler({"_class_name": "DDIMScheduler", "prediction_type": "v_prediction"})}


def order(**changes: Any) -> Order:
    embeds = np.zeros((3, 2), np.float32)
    plain = {
        "prompt": Conditioning(embeds + 1),
        "negative_prompt": Conditioning(embeds - 1),
        "seed": 7,
        "num_inference_steps": 10,
        "guidance_scale": 3.0,
        "scheduler": "ddim",
        "width": 64,
        "height": 64,
    }
    return Order(**{**plain, **changes})


def test_from_noise_of_the_seed() -> None:
    trajectory = begin(order(), CANVAS, SCHEDULERS)
    np.testing.assert_array_equal(trajectory.sample, gaussian(7, SHAPE))
    assert (trajectory.step, len(trajectory.schedule), trajectory.rows) == (0, 10, 2)


def test_width_and_height_are_not_confused() -> None:
    assert begin(order(width=128), CANVAS, SCHEDULERS).sample.shape == (4, 8, 16)


def test_the_schedule_is_that_of_the_images_size() -> None:
    """FLUX at 1024x1024: 64x64 tokens of 2x2 latents, for which mu is max_shift."""
    raw = {"_class_name": "FlowMatchEulerDiscreteScheduler", "use_dynamic_shifting": True}
    canvas = Canvas(latent_channels=16, vae_scale_factor=8, sizes=((1024, 1024), (512, 256)), patch_size=2)
    flow = {"flow_match_euler": load_scheduler(raw)}
    for width, height, mu in ((1024, 1024, 1.15), (512, 256, 0.5 + 0.65 * (512 - 256) / (4096 - 256))):
        painted = begin(order(scheduler="flow_match_euler", width=width, height=height), canvas, flow)
        plain = load_scheduler({**raw, "base_shift": mu, "max_shift": mu}).schedule(10, 1)
        np.testing.assert_allclose(painted.schedule.sigmas, plain.sigmas, rtol=1e-6)


def test_from_an_image_that_is_noised_to_the_level_of_its_step() -> None:
    clean = gaussian(1, SHAPE)
    trajectory = begin(order(image_latents=clean, start_step=6), CANVAS, SCHEDULERS)
    schedule = trajectory.schedule
    np.testing.assert_allclose(trajectory.sample, schedule.alphas[6] * clean + schedule.sigmas[6] * gaussian(7, SHAPE))
    assert trajectory.step == 6


def test_from_latents_as_they_are() -> None:
    latents = gaussian(2, SHAPE)
    trajectory = begin(order(start_latents=latents, start_step=4), CANVAS, SCHEDULERS)
    np.testing.assert_array_equal(trajectory.sample, latents)


@pytest.mark.parametrize(("guidance_scale", "rows"), [(0.0, 1), (1.0, 1), (1.01, 2)])
def test_guidance_up_to_one_is_none(guidance_scale: float, rows: int) -> None:
    assert begin(order(guidance_scale=guidance_scale), CANVAS, SCHEDULERS).rows == rows


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": -1}, "seed: got -1"),
        ({"guidance_scale": math.nan}, "guidance_scale: got nan"),
        ({"guidance_scale": -0.5}, "guidance_scale: got -0.5"),
        ({"capture_steps": (0,)}, "capture_steps: got 0; allowed: 1 to 9"),
        ({"capture_steps": (10,)}, "capture_steps: got 10; allowed: 1 to 9"),
        ({"capture_steps": (4,), "start_step": 4}, "capture_steps: got 4; allowed: 5 to 9"),
        ({"start_step": 10}, "start_step: got 10; allowed: 0 to 9 at 10 steps"),
        ({"start_step": -1}, "start_step: got -1"),
        ({"num_inference_steps": 0}, "num_inference_steps: got 0"),
        ({"scheduler": "dpm"}, "scheduler: got 'dpm'; allowed: ddim"),
        ({"width": 72}, "width, height: got '72x64'; allowed: 64x64, 128x64"),
        ({"height": 128}, "width, height: got '64x128'"),
        ({"start_latents": np.zeros((4, 8, 9), np.float32)}, "start_latents: got 'shape .4, 8, 9.'"),
        ({"image_latents": np.full(SHAPE, np.inf, np.float32)}, "image_latents: got 'values that are not finite'"),
    ],
)
def test_what_cannot_be_denoised_is_refused_by_name(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgument, match=f"^{message}"):
        begin(order(**changes), CANVAS, SCHEDULERS)
