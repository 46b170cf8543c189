"""Every scheduler walks the path that diffusers walks, step for step, whatever the model predicts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler, FlowMatchEulerDiscreteScheduler

from underpaint.diffusion import prediction
from underpaint.diffusion.noise import gaussian
from underpaint.diffusion.sampling import step
from underpaint.diffusion.schedulers import load_scheduler
from underpaint.errors import InvalidArgument, Unsupported

SHAPE = (4, 8, 8)


def model(x: np.ndarray, timestep: float) -> np.ndarray:
    """A smooth stand-in for a network: both implementations call the same one."""
    return np.float32(0.6) * np.tanh(x + np.float32(np.sin(timestep / 300)))


def our_path(raw: dict, steps: int, noise: np.ndarray, name: str | None = None) -> list[np.ndarray]:
    scheduler = load_scheduler(raw, name)
    schedule = scheduler.schedule(steps)
    x, path = schedule.start_from_noise(noise)[None], []
    for i in range(steps):
        x, _ = step(prediction.by_name(scheduler.prediction_type), [(schedule, i)], x, model(x, schedule.timesteps[i]))
        path.append(x[0])
    return path


@pytest.mark.parametrize("steps", [1, 2, 7, 10, 25, 30, 50])
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("beta_schedule", ["linear", "scaled_linear", "squaredcos_cap_v2"])
def test_ddim_equals_diffusers(steps: int, spacing: str, prediction_type: str, beta_schedule: str) -> None:
    theirs = DDIMScheduler(
        clip_sample=False,
        timestep_spacing=spacing,
        prediction_type=prediction_type,
        beta_schedule=beta_schedule,
    )
    raw = dict(theirs.config) | {"_class_name": "DDIMScheduler"}
    noise = gaussian(7, SHAPE)
    theirs.set_timesteps(steps)
    x = torch.from_numpy(noise)
    for t, mine in zip(theirs.timesteps, our_path(raw, steps, noise), strict=True):
        x = theirs.step(torch.from_numpy(model(x.numpy(), float(t))), t, x).prev_sample
        np.testing.assert_allclose(mine, x.numpy(), atol=2e-4 * max(1.0, float(x.abs().max())))


@pytest.mark.parametrize("steps", [1, 10, 25, 30])
def test_ddim_with_zero_terminal_snr_equals_diffusers(steps: int) -> None:
    theirs = DDIMScheduler(
        clip_sample=False,
        timestep_spacing="trailing",
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
    )
    noise = gaussian(7, SHAPE)
    theirs.set_timesteps(steps)
    x = torch.from_numpy(noise)
    raw = dict(theirs.config) | {"_class_name": "DDIMScheduler"}
    for t, mine in zip(theirs.timesteps, our_path(raw, steps, noise), strict=True):
        x = theirs.step(torch.from_numpy(model(x.numpy(), float(t))), t, x).prev_sample
        np.testing.assert_allclose(mine, x.numpy(), atol=1e-4)


@pytest.mark.parametrize("steps", [1, 2, 10, 25, 30])
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("zero_snr", [False, True])
def test_euler_equals_diffusers(steps: int, spacing: str, prediction_type: str, zero_snr: bool) -> None:
    theirs = EulerDiscreteScheduler(
        timestep_spacing=spacing, prediction_type=prediction_type, rescale_betas_zero_snr=zero_snr
    )
    noise = gaussian(7, SHAPE)
    theirs.set_timesteps(steps)
    raw = dict(theirs.config) | {"_class_name": "EulerDiscreteScheduler"}
    x = torch.from_numpy(noise) * theirs.init_noise_sigma
    for i, (t, mine) in enumerate(zip(theirs.timesteps, our_path(raw, steps, noise), strict=True)):
        output = torch.from_numpy(model(theirs.scale_model_input(x, t).numpy(), float(t)))
        x = theirs.step(output, t, x).prev_sample
        in_our_coordinates = x / (theirs.sigmas[i + 1] ** 2 + 1) ** 0.5
        np.testing.assert_allclose(mine, in_our_coordinates.numpy(), rtol=1e-4, atol=2e-3 if zero_snr else 2e-4)


@pytest.mark.parametrize("steps", [1, 2, 10, 28, 50])
@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_flow_match_euler_equals_diffusers(steps: int, shift: float) -> None:
    theirs = FlowMatchEulerDiscreteScheduler(shift=shift)
    noise = gaussian(7, SHAPE)
    theirs.set_timesteps(steps)
    raw = dict(theirs.config) | {"_class_name": "FlowMatchEulerDiscreteScheduler"}
    x = torch.from_numpy(noise)
    for t, mine in zip(theirs.timesteps, our_path(raw, steps, noise), strict=True):
        x = theirs.step(torch.from_numpy(model(x.numpy(), float(t))), t, x).prev_sample
        np.testing.assert_allclose(mine, x.numpy(), atol=2e-5)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
def test_noise_is_added_as_diffusers_adds_it(prediction_type: str) -> None:
    theirs = DDIMScheduler(clip_sample=False, prediction_type=prediction_type, timestep_spacing="trailing")
    schedule = load_scheduler(dict(theirs.config) | {"_class_name": "DDIMScheduler"}).schedule(20)
    clean, noise = gaussian(1, SHAPE), gaussian(2, SHAPE)
    theirs.set_timesteps(20)
    expected = theirs.add_noise(torch.from_numpy(clean), torch.from_numpy(noise), theirs.timesteps[12])
    np.testing.assert_allclose(schedule.start_from_image(clean, noise, 12), expected.numpy(), atol=1e-5)


def test_a_ddim_model_also_runs_under_euler_on_its_own_configuration() -> None:
    raw = {"_class_name": "DDIMScheduler", "prediction_type": "v_prediction", "timestep_spacing": "trailing"}
    assert load_scheduler(raw, "euler").name == "euler"
    with pytest.raises(InvalidArgument, match=r"scheduler: got 'flow_match_euler'; allowed: ddim, euler"):
        load_scheduler(raw, "flow_match_euler")


@pytest.mark.parametrize("option", ["clip_sample", "thresholding", "use_karras_sigmas", "use_dynamic_shifting"])
def test_an_option_that_would_change_the_image_is_refused(option: str) -> None:
    with pytest.raises(Unsupported, match=option):
        load_scheduler({"_class_name": "DDIMScheduler", option: True})


def test_an_unknown_class_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="DPMSolver"):
        load_scheduler({"_class_name": "DPMSolverMultistepScheduler"})
