"""Every scheduler walks the path that diffusers walks, step for step, whatever the model predicts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
)
from diffusers.pipelines.flux.pipeline_flux import calculate_shift

from underpaint.diffusion import prediction
from underpaint.diffusion.noise import gaussian
from underpaint.diffusion.sampling import step
from underpaint.diffusion.schedulers import load_scheduler, scheduler_names
from underpaint.errors import InvalidArgument, Unsupported

SHAPE = (4, 8, 8)


def model(x: np.ndarray, timestep: float) -> np.ndarray:
    """A smooth stand-in for a network: both implementations call the same one."""
    return np.float32(0.6) * np.tanh(x + np.float32(np.sin(timestep / 300)))


def flow_config(theirs: FlowMatchEulerDiscreteScheduler) -> dict[str, Any]:
    return dict(theirs.config) | {"_class_name": "FlowMatchEulerDiscreteScheduler"}


def assert_same_path(theirs: Any, ours: list[np.ndarray], noise: np.ndarray, atol: float) -> None:
    """Against a scheduler of diffusers whose steps are set and whose coordinates are ours."""
    x = torch.from_numpy(noise)
    for t, mine in zip(theirs.timesteps, ours, strict=True):
        x = theirs.step(torch.from_numpy(model(x.numpy(), float(t))), t, x).prev_sample
        np.testing.assert_allclose(mine, x.numpy(), atol=atol * max(1.0, float(x.abs().max())))


def our_path(
    raw: dict, steps: int, noise: np.ndarray, name: str | None = None, image_seq_len: int = 0
) -> list[np.ndarray]:
    scheduler = load_scheduler(raw, name)
    schedule = scheduler.schedule(steps, image_seq_len)
    predict = prediction.by_name(scheduler.prediction_type)
    x, clean, path = schedule.start_from_noise(noise)[None], [None], []
    for i in range(steps):
        x, clean = step(predict, [(schedule, i)], x, model(x, schedule.timesteps[i]), clean)
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


@pytest.mark.parametrize("steps", [1, 2, 4, 8, 10, 25, 30])
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


@pytest.mark.parametrize("steps", [1, 4, 28])
@pytest.mark.parametrize("side", [256, 512, 1024, 1536])
@pytest.mark.parametrize("time_shift_type", ["exponential", "linear"])
def test_dynamic_shifting_follows_the_size_as_in_fluxs_pipeline(steps: int, side: int, time_shift_type: str) -> None:
    theirs = FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True, time_shift_type=time_shift_type)
    noise, image_seq_len = gaussian(7, SHAPE), (side // 16) ** 2
    theirs.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps), mu=calculate_shift(image_seq_len))
    raw = flow_config(theirs) | {"timestep_spacing": "trailing"}
    path = our_path(raw, steps, noise, image_seq_len=image_seq_len)
    assert_same_path(theirs, path, noise, atol=2e-5)


@pytest.mark.parametrize("steps", [1, 28])
def test_dynamic_shifting_in_sd3s_pipeline_leaves_the_levels_to_the_scheduler(steps: int) -> None:
    theirs = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    theirs.set_timesteps(steps, mu=calculate_shift(1024))
    path = our_path(flow_config(theirs), steps, gaussian(7, SHAPE), image_seq_len=1024)
    assert_same_path(theirs, path, gaussian(7, SHAPE), atol=2e-5)


def test_levels_of_flux_schnell_are_not_shifted() -> None:
    raw = {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 1.0, "timestep_spacing": "trailing"}
    np.testing.assert_array_equal(load_scheduler(raw).schedule(4).timesteps, [1000, 750, 500, 250])


def test_a_shift_by_size_needs_the_size() -> None:
    scheduler = load_scheduler({"_class_name": "FlowMatchEulerDiscreteScheduler", "use_dynamic_shifting": True})
    with pytest.raises(InvalidArgument, match=r"^image_seq_len: got 0; allowed: 1 or more"):
        scheduler.schedule(4)
    assert scheduler.schedule(4, 256) is scheduler.schedule(4, 256)
    assert scheduler.schedule(4, 256).sigmas[1] < scheduler.schedule(4, 4096).sigmas[1]  # larger images: noisier


@pytest.mark.parametrize("steps", [1, 2, 3, 14, 15, 20, 50])
@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_dpm_solver_on_a_flow_equals_diffusers(steps: int, shift: float) -> None:
    theirs = DPMSolverMultistepScheduler(use_flow_sigmas=True, flow_shift=shift, prediction_type="flow_prediction")
    theirs.set_timesteps(steps)
    raw = dict(theirs.config) | {"_class_name": "DPMSolverMultistepScheduler"}
    path = our_path(raw, steps, gaussian(7, SHAPE))
    np.testing.assert_array_equal(load_scheduler(raw).schedule(steps).timesteps, theirs.timesteps)
    assert_same_path(theirs, path, gaussian(7, SHAPE), atol=5e-4)


@pytest.mark.parametrize("steps", [1, 2, 3, 14, 15, 25])
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("steps_offset", [0, 1])
def test_dpm_solver_equals_diffusers(steps: int, spacing: str, prediction_type: str, steps_offset: int) -> None:
    theirs = DPMSolverMultistepScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        timestep_spacing=spacing,
        prediction_type=prediction_type,
        steps_offset=steps_offset,
    )
    theirs.set_timesteps(steps)
    raw = dict(theirs.config) | {"_class_name": "DPMSolverMultistepScheduler"}
    assert_same_path(theirs, our_path(raw, steps, gaussian(7, SHAPE)), gaussian(7, SHAPE), atol=2e-4)


def test_a_run_that_begins_in_the_middle_begins_in_first_order() -> None:
    """As diffusers' does, which has no earlier estimate either."""
    theirs = DPMSolverMultistepScheduler(use_flow_sigmas=True, flow_shift=3.0, prediction_type="flow_prediction")
    theirs.set_timesteps(20)
    theirs.set_begin_index(12)
    raw = dict(theirs.config) | {"_class_name": "DPMSolverMultistepScheduler"}
    schedule = load_scheduler(raw).schedule(20)
    x, mine, clean = torch.from_numpy(gaussian(7, SHAPE)), gaussian(7, SHAPE)[None], [None]
    for i, t in enumerate(theirs.timesteps[12:], start=12):
        x = theirs.step(torch.from_numpy(model(x.numpy(), float(t))), t, x).prev_sample
        mine, clean = step(prediction.flow, [(schedule, i)], mine, model(mine, schedule.timesteps[i]), clean)
        np.testing.assert_allclose(mine[0], x.numpy(), atol=1e-4)


def test_rows_of_one_call_may_follow_one_step_and_multistep_schedules() -> None:
    raw = {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0}
    tables = [load_scheduler(raw, name).schedule(6) for name in ("flow_match_euler", "dpm_solver_multistep")]
    x = np.stack([gaussian(1, SHAPE), gaussian(1, SHAPE)])
    alone = [our_path(raw, 6, gaussian(1, SHAPE), name) for name in ("flow_match_euler", "dpm_solver_multistep")]
    clean: Sequence[np.ndarray | None] = [None, None]
    for i in range(6):
        output = np.stack([model(row, table.timesteps[i]) for row, table in zip(x, tables, strict=True)])
        x, clean = step(prediction.flow, [(table, i) for table in tables], x, output, clean)
        np.testing.assert_array_equal(x, np.stack([path[i] for path in alone]))
    assert np.abs(x[0] - x[1]).max() > 1e-3  # two methods, two pictures


# How noisy 1024x1024 is before steps 5, 10, ... 30 of 50, by the configurations that the hub has.
HUB_LEVELS = {
    "sd35-large": (
        {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0},
        (0.964, 0.922, 0.872, 0.814, 0.743, 0.657),
    ),
    "flux-dev": (
        {
            "_class_name": "FlowMatchEulerDiscreteScheduler",
            "shift": 3.0,
            "use_dynamic_shifting": True,
            "timestep_spacing": "trailing",
        },
        (0.966, 0.927, 0.881, 0.826, 0.760, 0.678),
    ),
    "sana": (
        {
            "_class_name": "DPMSolverMultistepScheduler",
            "prediction_type": "flow_prediction",
            "use_flow_sigmas": True,
            "flow_shift": 3.0,
        },
        (0.964, 0.923, 0.875, 0.818, 0.750, 0.666),
    ),
}


@pytest.mark.parametrize("variant", HUB_LEVELS)
def test_levels_of_the_hubs_configurations(variant: str) -> None:
    raw, expected = HUB_LEVELS[variant]
    levels = load_scheduler(raw).schedule(50, 64 * 64).sigmas[5:31:5]
    np.testing.assert_allclose(levels, expected, atol=6e-4)


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
    with pytest.raises(InvalidArgument, match=r"scheduler: got 'flow_match_euler'; allowed: ddim, euler, dpm_solver"):
        load_scheduler(raw, "flow_match_euler")


def test_a_flow_trained_for_dpm_solver_also_runs_under_euler() -> None:
    raw = {
        "_class_name": "DPMSolverMultistepScheduler",
        "prediction_type": "flow_prediction",
        "use_flow_sigmas": True,
        "flow_shift": 3.0,
        "lambda_min_clipped": float("-inf"),
        "timestep_spacing": "linspace",
    }
    assert scheduler_names(raw) == ("dpm_solver_multistep", "flow_match_euler")
    expected = load_scheduler({"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0}).schedule(9)
    np.testing.assert_array_equal(load_scheduler(raw, "flow_match_euler").schedule(9).sigmas, expected.sigmas)


def test_a_silent_file_means_what_diffusers_takes_it_for() -> None:
    theirs = EulerDiscreteScheduler()
    theirs.set_timesteps(10)
    schedule = load_scheduler({"_class_name": "EulerDiscreteScheduler"}).schedule(10)
    np.testing.assert_allclose(schedule.timesteps, theirs.timesteps, rtol=1e-6)


@pytest.mark.parametrize("option", ["clip_sample", "thresholding", "use_karras_sigmas", "use_dynamic_shifting"])
def test_an_option_that_would_change_the_image_is_refused(option: str) -> None:
    with pytest.raises(Unsupported, match=option):
        load_scheduler({"_class_name": "DDIMScheduler", option: True})


@pytest.mark.parametrize(
    ("option", "value", "error"),
    [
        ("algorithm_type", "sde-dpmsolver++", InvalidArgument),
        ("solver_order", 3, InvalidArgument),
        ("solver_type", "heun", InvalidArgument),
        ("final_sigmas_type", "sigma_min", InvalidArgument),
        ("use_lu_lambdas", True, Unsupported),
        ("lambda_min_clipped", -5.1, Unsupported),
        ("use_dynamic_shifting", True, Unsupported),
    ],
)
def test_another_form_of_dpm_solver_is_refused(option: str, value: object, error: type[Exception]) -> None:
    with pytest.raises(error, match=option):
        load_scheduler({"_class_name": "DPMSolverMultistepScheduler", option: value})


@pytest.mark.parametrize("option", ["shift_terminal", "stochastic_sampling", "use_beta_sigmas"])
def test_another_form_of_flow_matching_is_refused(option: str) -> None:
    with pytest.raises(Unsupported, match=option):
        load_scheduler({"_class_name": "FlowMatchEulerDiscreteScheduler", option: 0.1})


def test_an_unknown_class_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="UniPC"):
        load_scheduler({"_class_name": "UniPCMultistepScheduler"})
