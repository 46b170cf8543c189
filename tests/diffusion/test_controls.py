"""ControlNets beside the encoder: what is added to whom, in which steps, and what is called once."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from functools import partial

import numpy as np
import pytest

from tests.diffusion.fake_unet import PATIENCE_S, PREDICTION, SHAPE, FakeUNet, Painting, begun
from underpaint.diffusion.adapters import Adapted
from underpaint.diffusion.batcher import StepBatcher, Ticket
from underpaint.diffusion.conditioning import Conditioning
from underpaint.diffusion.controls import Control, ControlledUNet, Controlling, Wanted
from underpaint.diffusion.denoiser import Denoiser, Trajectory
from underpaint.diffusion.engine import Engine
from underpaint.diffusion.prediction import by_name
from underpaint.diffusion.rows import Answer, Rows
from underpaint.errors import Unavailable

STEPS = 4


class FakeHalves:
    """A UNet whose answer is its sample, halved, and what ControlNets add; their residuals are one number a row."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, int]] = []
        self.encoder_waits_for: threading.Event | None = None
        self.failures = 0

    def encode(self, rows: Rows, adapted: Adapted | None) -> Answer:
        return lambda: self._encoded(rows)

    def _encoded(self, rows: Rows) -> np.ndarray:
        if self.encoder_waits_for is not None:
            assert self.encoder_waits_for.wait(PATIENCE_S), "no ControlNet was called beside the encoder"
        return rows.sample.reshape(len(rows), -1)

    def decode(
        self, skips: np.ndarray, rows: Rows, residuals: np.ndarray, scales: np.ndarray, adapted: Adapted | None
    ) -> Answer:
        added = scales @ residuals
        return lambda: (0.5 * skips.reshape(rows.sample.shape) + added[:, :1, None, None]).astype(np.float32)

    def ask(self, name: str, rows: Rows, images: np.ndarray) -> Answer:
        """What it says: the mean of the image and how noisy the row is; ``loud`` says ten times as much."""
        self.asked.append((name, len(rows)))
        if self.failures:
            self.failures -= 1
            return _lost
        if self.encoder_waits_for is not None:
            self.encoder_waits_for.set()
        volume = 10.0 if name == "loud" else 1.0
        return partial(_said, volume * (images.mean((1, 2, 3)) + rows.timestep / 1000))


def _said(values: np.ndarray) -> np.ndarray:
    return values.astype(np.float32)[:, None]


def _lost() -> np.ndarray:
    raise Unavailable("the process has died")


def image(value: int) -> np.ndarray:
    return np.full((8, 8, 3), value, np.uint8)


def plain(seed: int = 0, guidance_scale: float = 1.0) -> Trajectory:
    return Painting(seed, STEPS, guidance=guidance_scale).trajectory()


def controlled(*controls: Control, guidance_scale: float = 1.0, seed: int = 0) -> Trajectory:
    made = plain(seed, guidance_scale)
    loaded: Future[None] = Future()
    loaded.set_result(None)
    made.controlling = Controlling(controls, loaded)
    return made


def denoiser(halves: FakeHalves) -> Denoiser:
    return Denoiser(begun(FakeUNet()), by_name(PREDICTION), controlled=ControlledUNet(halves, halves.ask))


def run(made: Denoiser, *trajectories: Trajectory) -> None:
    while not all(each.done for each in trajectories):
        made.advance([each for each in trajectories if not each.done])


def test_encoder_and_controlnets_are_called_at_once() -> None:
    halves = FakeHalves()
    halves.encoder_waits_for = threading.Event()
    run(denoiser(halves), controlled(Control("quiet", image(1))))


def test_each_controlnet_is_called_once_a_step_for_all_rows() -> None:
    halves = FakeHalves()
    one, both, none = controlled(Control("quiet", image(1))), two_controls(), plain(2)
    denoiser(halves).advance([one, both, none])
    assert sorted(halves.asked) == [("loud", 1), ("quiet", 2)]


def two_controls(guidance_scale: float = 1.0) -> Trajectory:
    return controlled(Control("quiet", image(3), 0.5), Control("loud", image(2), -0.2), guidance_scale=guidance_scale)


def test_the_image_does_not_depend_on_the_batch() -> None:
    alone, together = two_controls(3.0), two_controls(3.0)
    run(denoiser(FakeHalves()), alone)
    others = [controlled(Control("quiet", image(9)), seed=5, guidance_scale=2.0), plain(6)]
    run(denoiser(FakeHalves()), together, *others)
    np.testing.assert_allclose(together.sample, alone.sample, rtol=1e-5, atol=1e-6)


def test_residuals_are_summed_with_their_scales() -> None:
    halves = FakeHalves()
    answer = ControlledUNet(halves, halves.ask)
    made = two_controls()
    rows = Rows(made.sample[None], np.array([500.0], np.float32), Conditioning.stack([made.prompt]))
    predicted = answer.begin(rows, [Wanted(made.acting, negative=False)], None)()
    expected = 0.5 * made.sample + 0.5 * (3 + 0.5) - 0.2 * 10 * (2 + 0.5)
    np.testing.assert_allclose(predicted[0], expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("start", "end", "acting"),
    [(0.0, 1.0, [0, 1, 2, 3]), (0.0, 0.5, [0, 1]), (0.25, 0.75, [1, 2]), (0.3, 1.0, [2, 3]), (0.9, 1.0, [])],
)
def test_it_acts_in_the_steps_that_diffusers_would_have_it_act_in(start: float, end: float, acting: list[int]) -> None:
    control = Control("quiet", image(1), start=start, end=end)
    assert [step for step in range(STEPS) if control.acts(step, STEPS)] == acting
    # as StableDiffusionControlNetPipeline decides
    keep = [1.0 - float(i / STEPS < start or (i + 1) / STEPS > end) for i in range(STEPS)]
    assert [step for step, kept in enumerate(keep) if kept] == acting


def test_in_other_steps_the_plain_unet_is_called() -> None:
    halves = FakeHalves()
    run(denoiser(halves), controlled(Control("quiet", image(1), end=0.5)))
    assert halves.asked == [("quiet", 1)] * 2


def test_a_stale_control_says_what_it_said_a_step_before() -> None:
    said: list[float] = []

    class Listening(FakeHalves):
        def decode(
            self, skips: np.ndarray, rows: Rows, residuals: np.ndarray, scales: np.ndarray, adapted: Adapted | None
        ) -> Answer:
            said.append(float(residuals[0, 0]))
            return super().decode(skips, rows, residuals, scales, adapted)

    for stale in (False, True):
        halves = Listening()
        run(denoiser(halves), controlled(Control("quiet", image(1), stale=stale)))
    fresh, late = said[:STEPS], said[STEPS:]
    assert late == [fresh[0], *fresh[:-1]] and len(set(fresh)) == STEPS


@pytest.mark.parametrize("stale", [False, True])
def test_a_controlnet_that_dies_costs_a_step_and_nobody_has_moved(stale: bool) -> None:
    halves = FakeHalves()
    made = denoiser(halves)
    mine, other = controlled(Control("quiet", image(1), stale=stale)), plain(3)
    halves.failures = 1
    with pytest.raises(Unavailable, match="has died"):
        made.advance([mine, other])
    assert (mine.step, other.step) == (0, 0)
    run(made, mine, other)
    unharmed = controlled(Control("quiet", image(1), stale=stale))
    run(denoiser(FakeHalves()), unharmed)
    np.testing.assert_allclose(mine.sample, unharmed.sample, rtol=1e-5)


def test_no_step_with_a_controlnet_is_made_before_it_is_loaded() -> None:
    made = plain()
    loaded: Future[None] = Future()
    made.controlling = Controlling((Control("quiet", image(1), start=0.5),), loaded)
    engine = Engine(denoiser(FakeHalves()), StepBatcher(8))
    future = engine.submit(Ticket("a", 1, 0), made)
    with pytest.raises(TimeoutError):
        future.result(0.3)
    assert made.step == 2  # as far as it goes without
    loaded.set_result(None)
    assert future.result(PATIENCE_S).trajectory.done
    engine.close()


def test_a_controlnet_that_cannot_be_loaded_ends_the_request() -> None:
    made = plain()
    loaded: Future[None] = Future()
    made.controlling = Controlling((Control("quiet", image(1)),), loaded)
    engine = Engine(denoiser(FakeHalves()), StepBatcher(8))
    future = engine.submit(Ticket("a", 1, 0), made)
    loaded.set_exception(Unavailable("no room for it"))
    with pytest.raises(Unavailable, match="no room"):
        future.result(PATIENCE_S)
    engine.close()


def test_split_guidance_is_two_calls_whoever_else_is_there() -> None:
    batcher = StepBatcher(32, stacks=2)
    for i in range(8):
        batcher.add(Ticket(f"r{i}", 2, i, shape=SHAPE, split=i == 0))
    assert batcher.calls_for(batcher.take()) == 2
    assert batcher.calls_for(batcher.take()) == 1
