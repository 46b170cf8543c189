"""The arithmetic of a step: guidance, predictions read backwards, noise added and taken away again."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.diffusion.fake_unet import CONFIG, SCHEDULERS, SHAPE
from underpaint.diffusion import prediction
from underpaint.diffusion.noise import gaussian
from underpaint.diffusion.sampling import guide, step
from underpaint.diffusion.schedule import Schedule
from underpaint.diffusion.schedulers import load_scheduler, scheduler_names
from underpaint.errors import InvalidArgument

FLOW = load_scheduler({"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0})
CLEAN, NOISE = gaussian(1, SHAPE), gaussian(2, SHAPE)
PHILOX_0 = [-0.24822916090488434, -0.02676701545715332, -1.9444162845611572]
PHILOX_LAST = [0.21914730966091156, -0.05066446587443352, -1.4411708116531372]


def all_schedules(steps: int) -> list[Schedule]:
    return [s.schedule(steps) for s in (*SCHEDULERS.values(), FLOW)]


# Guidance -----------------------------------------------------------------------------------------------------------


@settings(max_examples=50, deadline=None)
@given(st.lists(st.none() | st.floats(0, 30, width=32), min_size=1, max_size=8), st.integers(0, 1000))
def test_guidance_row_by_row(scales: list[float | None], seed: int) -> None:
    """Against the formula in a plain loop; None is a row without guidance."""
    guided = [i for i, scale in enumerate(scales) if scale is not None]
    output = gaussian(seed, (len(scales) + len(guided), *SHAPE))
    given_output = output.copy()
    scale_of_guided = np.array([scales[i] for i in guided], np.float32)
    result = guide(output, np.array(guided, np.int64), scale_of_guided, len(scales))
    negatives = iter(output[len(scales) :])
    for i, scale in enumerate(scales):
        expected = output[i]
        if scale is not None:
            negative = next(negatives)
            expected = negative + np.float32(scale) * (output[i] - negative)
        np.testing.assert_allclose(result[i], expected, atol=1e-5)
    np.testing.assert_array_equal(output, given_output)  # the UNet's answer is not ours to change


def test_guidance_0_is_the_negative_prompt_and_1_the_prompt() -> None:
    output = gaussian(3, (4, *SHAPE))
    result = guide(output, np.array([0, 1]), np.array([0.0, 1.0], np.float32), 2)
    np.testing.assert_allclose(result[0], output[2], atol=1e-6)
    np.testing.assert_allclose(result[1], output[1], atol=1e-6)


# Predictions --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample", "flow"])
@pytest.mark.parametrize("level", [0.05, 0.5, 0.95])
def test_what_a_perfect_model_predicts_is_read_back_exactly(kind: str, level: float) -> None:
    sigma = np.full((1, 1, 1, 1), level, np.float32)
    alpha = 1 - sigma if kind == "flow" else np.sqrt(1 - sigma**2)
    x = alpha * CLEAN[None] + sigma * NOISE[None]
    perfect = {
        "epsilon": NOISE,
        "v_prediction": alpha * NOISE - sigma * CLEAN,
        "sample": CLEAN,
        "flow": NOISE - CLEAN,
    }[kind]
    clean, noise = prediction.by_name(kind)(np.broadcast_to(perfect, x.shape), x, alpha, sigma)
    np.testing.assert_allclose(clean[0], CLEAN, atol=1e-4)
    np.testing.assert_allclose(noise[0], NOISE, atol=1e-4)


def test_an_unknown_prediction_is_refused_and_the_known_ones_listed() -> None:
    with pytest.raises(InvalidArgument, match=r"^prediction_type: got 'x0'; allowed: epsilon, v_prediction, sample"):
        prediction.by_name("x0")


# Schedules ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 5, 50])
def test_a_perfect_model_ends_in_the_clean_image_from_any_start(steps: int) -> None:
    """Rows at different steps of different tables share the call that moves them."""
    tables = [s.schedule(steps) for s in SCHEDULERS.values()]
    for start in {0, steps // 2, steps - 1}:
        x = np.stack([table.start_from_image(CLEAN, NOISE, start) for table in tables])
        for i in range(start, steps):
            alpha, sigma = (
                np.array([level[i] for level in levels], np.float32)[:, None, None, None]
                for levels in ([t.alphas for t in tables], [t.sigmas for t in tables])
            )
            x, clean = step(
                prediction.v_prediction,
                [(t, i) for t in tables],
                x,
                alpha * NOISE - sigma * CLEAN,
                [None] * len(tables),
            )
            np.testing.assert_allclose(clean, np.stack([CLEAN] * len(tables)), atol=2e-3)
        np.testing.assert_allclose(x, np.stack([CLEAN] * len(tables)), atol=2e-3)


def test_a_perfect_flow_ends_in_the_clean_image() -> None:
    table = FLOW.schedule(10)
    x = table.start_from_image(CLEAN, NOISE, 4)[None]
    for i in range(4, 10):
        x, _ = step(prediction.flow, [(table, i)], x, (NOISE - CLEAN)[None], [None])
    np.testing.assert_allclose(x[0], CLEAN, atol=1e-5)


@pytest.mark.parametrize("steps", [1, 2, 10, 50])
def test_noise_is_added_at_the_levels_of_the_table(steps: int) -> None:
    for table in all_schedules(steps):
        for start in range(steps):
            expected = float(table.alphas[start]) * CLEAN + float(table.sigmas[start]) * NOISE
            got = table.start_from_image(CLEAN, NOISE, start)
            np.testing.assert_allclose(got, expected, atol=1e-6)
            assert got.dtype == np.float32


@pytest.mark.parametrize("start", [-1, 10, 1000])
def test_a_start_outside_the_run_is_refused(start: int) -> None:
    for table in all_schedules(10):
        with pytest.raises(InvalidArgument, match=rf"^start_step: got {start}; allowed: 0 to 9 at 10 steps$"):
            table.start_from_image(CLEAN, NOISE, start)
        with pytest.raises(InvalidArgument, match=r"^start_step: "):
            table.check_step(start)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 200))
def test_levels_are_what_the_parametrisation_promises(steps: int) -> None:
    for table in all_schedules(steps):
        flow, ddim = table is FLOW.schedule(steps), table is SCHEDULERS["ddim"].schedule(steps)
        levels = ((table.alphas, table.sigmas), (table.alphas_next, table.sigmas_next))
        for alpha, sigma in levels:
            np.testing.assert_allclose(alpha + sigma if flow else alpha**2 + sigma**2, 1.0, atol=1e-5)
            assert np.all(np.diff(sigma) < 0)  # less noise with every step
        # Ends without noise; DDIM's integer step length may leave it, as in diffusers, at timestep 0 instead.
        assert table.sigmas_next[-1] <= (0.03 if ddim else 0.0)
        np.testing.assert_allclose(table.sigmas[0], 1.0, atol=1e-3)  # starts from (almost) nothing else
        assert len(table) == steps == len(table.timesteps)
        assert np.all(table.sigmas_next < table.sigmas)


def test_noise_alone_starts_at_the_schedules_own_strength() -> None:
    for table in all_schedules(7):
        np.testing.assert_allclose(table.start_from_noise(NOISE), NOISE, rtol=1e-6)
    raw = {"_class_name": "EulerDiscreteScheduler", "beta_schedule": "scaled_linear", "timestep_spacing": "linspace"}
    table = load_scheduler(raw).schedule(7)
    assert 0.9 < table.initial_sigma < 0.9999
    np.testing.assert_allclose(table.start_from_noise(NOISE), table.sigmas[0] * NOISE, rtol=1e-6)


@pytest.mark.parametrize("steps", [0, -1, 1001, 2_000_000_000])
def test_a_step_count_that_the_model_was_not_trained_for_is_refused(steps: int) -> None:
    for scheduler in (*SCHEDULERS.values(), FLOW):
        with pytest.raises(InvalidArgument, match=rf"^num_inference_steps: got {steps}; allowed: 1 to 1000"):
            scheduler.schedule(steps)


def test_requests_of_as_many_steps_share_a_table() -> None:
    scheduler = load_scheduler(CONFIG)
    assert scheduler.schedule(12) is scheduler.schedule(12)
    assert scheduler.schedule(12) is not scheduler.schedule(13)


def test_a_models_own_scheduler_comes_first() -> None:
    assert scheduler_names(CONFIG) == ("ddim", "euler", "dpm_solver_multistep")
    assert scheduler_names({**CONFIG, "_class_name": "EulerDiscreteScheduler"}) == (
        "euler",
        "ddim",
        "dpm_solver_multistep",
    )
    flow = scheduler_names({"_class_name": "FlowMatchEulerDiscreteScheduler"})
    assert flow == ("flow_match_euler", "dpm_solver_multistep")


# Noise --------------------------------------------------------------------------------------------------------------


def test_noise_is_its_seeds_alone() -> None:
    first = gaussian(5, SHAPE)
    gaussian(6, SHAPE)
    np.testing.assert_array_equal(gaussian(5, SHAPE), first)
    assert not np.allclose(gaussian(6, SHAPE), first)


def test_noise_stays_what_it_was() -> None:
    """Images of a seed must survive upgrades: these numbers were drawn with numpy 1.26."""
    np.testing.assert_array_equal(gaussian(0, (3,)), np.array(PHILOX_0, np.float32))
    np.testing.assert_array_equal(gaussian(2**63 - 1, (3,)), np.array(PHILOX_LAST, np.float32))


def test_noise_is_of_unit_variance() -> None:
    noise = gaussian(11, (4, 100, 100))
    assert noise.dtype == np.float32
    assert abs(noise.mean()) < 0.02
    assert abs(noise.std() - 1) < 0.02
