"""One step of many requests: the rows that the UNet sees, and what becomes of its answer."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from tests.diffusion.fake_unet import PREDICTION, SCHEDULERS, SHAPE, FakeUNet, Painting, begun, embeds, predict, told
from underpaint.diffusion import prediction
from underpaint.diffusion.conditioning import Conditioning
from underpaint.diffusion.denoiser import Denoiser, Trajectory
from underpaint.errors import Internal, Unavailable

PLAIN, GUIDED, PLAIN_TOO = Painting(1), Painting(2, guidance=4.0, scheduler="euler"), Painting(3, steps=4)
V = prediction.by_name(PREDICTION)


class RecordingUNet(FakeUNet):
    """Keeps what it was given."""

    def __call__(self, sample: np.ndarray, timestep: np.ndarray, conditioning: Conditioning) -> np.ndarray:
        self.given = (sample.copy(), timestep.copy(), conditioning.embeds.copy())
        return super().__call__(sample, timestep, conditioning)


def test_negative_prompts_follow_the_prompts_and_see_the_same_sample_and_timestep() -> None:
    unet = RecordingUNet()
    trajectories = [p.trajectory() for p in (PLAIN, GUIDED, PLAIN_TOO)]
    trajectories[2].step = 2
    starts = [t.sample for t in trajectories]
    Denoiser(begun(unet), V).advance(trajectories)
    sample, timestep, hidden = unet.given
    np.testing.assert_array_equal(sample, np.stack([*starts, starts[1]]))
    of = [p.schedule.timesteps for p in (PLAIN, GUIDED, PLAIN_TOO)]
    np.testing.assert_array_equal(timestep, [of[0][0], of[1][0], of[2][2], of[1][0]])
    np.testing.assert_array_equal(hidden, [embeds(0.01), embeds(0.02), embeds(0.03), embeds(-0.02)])


def test_without_guidance_no_row_is_spent_on_negative_prompts() -> None:
    unet = RecordingUNet()
    Denoiser(begun(unet), V).advance([PLAIN.trajectory(), PLAIN_TOO.trajectory()])
    assert unet.rows == [2]


@pytest.mark.parametrize("together", [[PLAIN], [GUIDED], [PLAIN, GUIDED, PLAIN_TOO]])
def test_each_moves_by_a_step_of_its_own(together: list[Painting]) -> None:
    trajectories = [p.trajectory() for p in together]
    Denoiser(begun(predict), V).advance(trajectories)
    for painting, trajectory in zip(together, trajectories, strict=True):
        assert trajectory.step == 1
        assert trajectory.sample.dtype == np.float32
        np.testing.assert_allclose(trajectory.sample, painting.path()[1], atol=1e-5)


def test_guidance_scale_1_by_two_rows_equals_no_guidance() -> None:
    plain, pair = PLAIN.trajectory(), PLAIN.trajectory()
    pair.negative_prompt, pair.guidance_scale = told(-1), 1.0
    assert (plain.rows, pair.rows) == (1, 2)
    Denoiser(begun(predict), V).advance([plain])
    Denoiser(begun(predict), V).advance([pair])
    np.testing.assert_allclose(pair.sample, plain.sample, atol=1e-6)


def test_the_sample_before_a_wanted_step_is_kept() -> None:
    trajectory = PLAIN.trajectory(capture_steps=frozenset({0, 2}))
    denoiser = Denoiser(begun(predict), V)
    while not trajectory.done:
        denoiser.advance([trajectory])
    assert sorted(trajectory.captured) == [0, 2]
    for step, captured in trajectory.captured.items():
        np.testing.assert_allclose(captured, PLAIN.path()[step], atol=1e-5)


def failing_unet(sample: np.ndarray, timestep: np.ndarray, conditioning: Conditioning) -> np.ndarray:
    raise Unavailable("restarting")


def one_row_unet(sample: np.ndarray, timestep: np.ndarray, conditioning: Conditioning) -> np.ndarray:
    return predict(sample, timestep, conditioning)[:1]


@pytest.mark.parametrize(
    ("unet", "expected", "message"),
    [
        (failing_unet, Unavailable, "restarting"),
        (one_row_unet, Internal, r"shape \[1, 3, 4, 4\] to \[4, 3, 4, 4\]"),  # not spread over the whole batch
    ],
)
def test_a_call_that_fails_moves_nobody(
    unet: Callable[..., np.ndarray], expected: type[Exception], message: str
) -> None:
    trajectories = [p.trajectory(capture_steps=frozenset({0})) for p in (PLAIN, GUIDED, PLAIN_TOO)]
    before = [t.sample.copy() for t in trajectories]
    with pytest.raises(expected, match=message):
        Denoiser(begun(unet), V).advance(trajectories)
    assert [(t.step, t.clean, t.captured) for t in trajectories] == [(0, None, {})] * 3
    for trajectory, sample in zip(trajectories, before, strict=True):
        np.testing.assert_array_equal(trajectory.sample, sample)


def test_a_trajectory_is_done_after_its_last_step() -> None:
    schedule = SCHEDULERS["ddim"].schedule(3)
    trajectory = Trajectory(schedule, np.zeros(SHAPE, np.float32), 2, told(0))
    assert not trajectory.done
    Denoiser(begun(predict), V).advance([trajectory])
    assert trajectory.done


@pytest.mark.parametrize("calls", [2, 3, 4])
def test_a_step_may_be_spread_over_several_calls(calls: int) -> None:
    whole, spread = ([p.trajectory() for p in (PLAIN, GUIDED, PLAIN_TOO)] for _ in range(2))
    unet = FakeUNet()
    Denoiser(begun(FakeUNet()), V).advance(whole)
    Denoiser(begun(unet), V).advance(spread, calls)
    assert len(unet.rows) == calls and sum(unet.rows) == 4
    for one, other in zip(whole, spread, strict=True):
        np.testing.assert_array_equal(one.sample, other.sample)


def test_when_one_of_several_calls_fails_nobody_has_moved() -> None:
    trajectory = GUIDED.trajectory()
    before = trajectory.sample.copy()
    with pytest.raises(Unavailable):
        Denoiser(begun(FakeUNet(failures={1: Unavailable("gone")})), V).advance([trajectory], calls=2)
    assert trajectory.step == 0
    np.testing.assert_array_equal(trajectory.sample, before)
