"""LoRAs in the engine: each request has its own, from its own step on, whoever else is in the batch."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import Future
from functools import partial

import numpy as np
import pytest

from tests.diffusion.fake_unet import PATIENCE_S, PREDICTION, Clock, FakeUNet, Painting, begun, predict
from underpaint.diffusion import prediction
from underpaint.diffusion.adapters import Adaptation, Adapted, Adapter, Banks, Joining
from underpaint.diffusion.batcher import StepBatcher, Ticket
from underpaint.diffusion.conditioning import Conditioning
from underpaint.diffusion.denoiser import Answer, Denoiser, Trajectory
from underpaint.diffusion.engine import Denoised, Engine
from underpaint.errors import Cancelled, DeadlineExceeded, Internal, NotFound

TOLERANCE = 1e-5
FACTORS = [np.full((rank, 6), value, np.float16) for rank, value in ((1, 0.5), (2, 0.25), (4, -0.125))]


def offset(adapters: tuple[Adapter, ...]) -> float:
    """What the fake twin makes of a row's LoRAs: Σ scale · sum of the factors."""
    return sum(adapter.scale * float(adapter.factors.astype(np.float32).sum()) for adapter in adapters)


class FakeTwin:
    """The fake UNet's answer, moved by each row's LoRAs."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, int]] = []  # rows and groups

    def __call__(
        self, sample: np.ndarray, timestep: np.ndarray, conditioning: Conditioning, adapted: Adapted
    ) -> Answer:
        self.calls.append((len(sample), len(adapted.bank)))
        return partial(self._answer, sample, timestep, conditioning, adapted)

    def _answer(self, sample: np.ndarray, timestep: np.ndarray, states: Conditioning, adapted: Adapted) -> np.ndarray:
        of_groups = (adapted.scales * adapted.bank.astype(np.float32).sum(axis=2)).sum(axis=1)
        moved = np.repeat(of_groups, len(sample) // len(of_groups))
        return (predict(sample, timestep, states) + moved[:, None, None, None]).astype(np.float32)


def expected(painting: Painting, adapters: tuple[Adapter, ...], from_step: int) -> np.ndarray:
    """By the book: the v that the UNet says, and from a step on that much more of it."""
    table, x = painting.schedule, painting.start()
    for i in range(painting.start_step, painting.steps):
        v = painting._guided_prediction(x, table.timesteps[i]) + (offset(adapters) if i >= from_step else 0)
        clean = table.alphas[i] * x - table.sigmas[i] * v
        noise = table.sigmas[i] * x + table.alphas[i] * v
        x = table.alphas_next[i] * clean + table.sigmas_next[i] * noise
    return x


class Studio:
    def __init__(self, stacks: int = 1) -> None:
        self.unet, self.twin, self.clock = FakeUNet(), FakeTwin(), Clock()
        denoiser = Denoiser(begun(self.unet), prediction.by_name(PREDICTION), self.twin)
        self.engine = Engine(denoiser, StepBatcher(64, stacks), stacks, 30.0, self.clock)

    def submit(
        self, painting: Painting, joining: Joining | None = None, deadline_in_s: float | None = None
    ) -> Future[Denoised]:
        trajectory = painting.trajectory()
        trajectory.joining = joining
        deadline_ns = None if deadline_in_s is None else self.clock() + int(deadline_in_s * 1e9)
        ticket = Ticket(f"r{painting.seed}", trajectory.rows, self.clock(), deadline_ns)
        return self.engine.submit(ticket, trajectory)

    def wait_for_step(self, painting: Painting, step: int) -> None:
        end = time.monotonic() + PATIENCE_S
        while time.monotonic() < end:
            progress = self.engine.peek(f"r{painting.seed}")
            if progress is not None and progress.step == step:
                return
            time.sleep(0.005)
        raise AssertionError(f"never came to step {step}")


@pytest.fixture(params=[1, 2], ids=["one stack", "two stacks"])
def studio(request: pytest.FixtureRequest) -> Iterator[Studio]:
    studio = Studio(request.param)
    yield studio
    studio.engine.close()


def there(*adapters: Adapter) -> Future[Adaptation]:
    future: Future[Adaptation] = Future()
    future.set_result(Adaptation(("x",) * len(adapters), adapters))
    return future


def end_of(future: Future[Denoised]) -> Trajectory:
    return future.result(PATIENCE_S).trajectory


def test_each_request_of_a_batch_has_its_own_loras(studio: Studio) -> None:
    wishes = [(), (Adapter(FACTORS[0], 0.1),), (Adapter(FACTORS[1], -0.2), Adapter(FACTORS[2], 0.05))]
    paintings = [
        Painting(100 + i, steps=5 + i % 3, guidance=7.5 if i % 2 else 1.0, start_step=2 if i == 5 else 0)
        for i in range(12)
    ]
    cases = [(painting, wishes[i % 3]) for i, painting in enumerate(paintings)]
    futures = [studio.submit(p, Joining(p.start_step, there(*own)) if own else None) for p, own in cases]
    for (painting, own), future in zip(cases, futures, strict=True):
        np.testing.assert_allclose(end_of(future).sample, expected(painting, own, 0), atol=TOLERANCE)
    assert studio.unet.calls and any(groups < rows for rows, groups in studio.twin.calls)


def test_what_loads_late_joins_exactly_at_its_step(studio: Studio) -> None:
    late: Future[Adaptation] = Future()
    painting, own = Painting(7, steps=8), (Adapter(FACTORS[0], 0.3),)
    future = studio.submit(painting, Joining(3, late))
    others = [studio.submit(Painting(200 + i, steps=6)) for i in range(3)]
    studio.wait_for_step(painting, 3)
    for other in others:  # nobody waits for it
        end_of(other)
    time.sleep(0.05)
    assert studio.engine.peek("r7").step == 3  # type: ignore[union-attr]
    assert not studio.twin.calls
    studio.clock.advance(2)
    late.set_result(Adaptation(("x",), own))
    trajectory = end_of(future)
    assert future.result().held_ns == pytest.approx(2e9, rel=0.01)
    np.testing.assert_allclose(trajectory.sample, expected(painting, own, 3), atol=TOLERANCE)
    assert (trajectory.joined, trajectory.joined_at) == (("x",), 3)


def test_what_loads_early_waits_for_its_step_too(studio: Studio) -> None:
    painting, own = Painting(7, steps=8), (Adapter(FACTORS[0], 0.3),)
    trajectory = end_of(studio.submit(painting, Joining(3, there(*own))))
    np.testing.assert_allclose(trajectory.sample, expected(painting, own, 3), atol=TOLERANCE)


def test_the_prompt_is_read_again_where_a_lora_says_so(studio: Studio) -> None:
    told = Painting(7, steps=4)
    renamed: Future[Adaptation] = Future()
    renamed.set_result(Adaptation(("x",), (), Conditioning(np.full((2, 5), told.prompt + 0.5, np.float32))))
    changed = end_of(studio.submit(told, Joining(0, renamed)))
    x = told.start()
    table = told.schedule
    for i in range(told.steps):
        again = Conditioning(np.full((1, 2, 5), told.prompt + 0.5, np.float32))
        v = predict(x[None], np.array([table.timesteps[i]], np.float32), again)[0]
        clean, noise = table.alphas[i] * x - table.sigmas[i] * v, table.sigmas[i] * x + table.alphas[i] * v
        x = table.alphas_next[i] * clean + table.sigmas_next[i] * noise
    np.testing.assert_allclose(changed.sample, x, atol=TOLERANCE)


@pytest.mark.parametrize("when", ["before it comes", "while it waits"])
def test_a_lora_that_never_comes_ends_its_own_request_only(studio: Studio, when: str) -> None:
    never: Future[Adaptation] = Future()
    if when == "before it comes":
        never.set_exception(NotFound("no such LoRA"))
    future = studio.submit(Painting(7, steps=8), Joining(3, never))
    other = studio.submit(Painting(8, steps=8))
    if when == "while it waits":
        studio.wait_for_step(Painting(7), 3)
        never.set_exception(NotFound("no such LoRA"))
    with pytest.raises(NotFound):
        future.result(PATIENCE_S)
    np.testing.assert_allclose(end_of(other).sample, expected(Painting(8, steps=8), (), 0), atol=TOLERANCE)
    assert studio.engine.activity().running == studio.engine.activity().waiting == 0


def test_a_request_that_waits_can_be_cancelled_and_what_comes_then_is_for_nobody(studio: Studio) -> None:
    late: Future[Adaptation] = Future()
    future = studio.submit(Painting(7), Joining(0, late))
    assert studio.engine.cancel("r7")
    late.set_result(Adaptation(("x",), (Adapter(FACTORS[0], 1),)))
    with pytest.raises(Cancelled):
        future.result(PATIENCE_S)
    end_of(studio.submit(Painting(8)))


def test_a_deadline_passes_while_a_request_waits(studio: Studio) -> None:
    future = studio.submit(Painting(7), Joining(0, Future()), deadline_in_s=1)
    studio.clock.advance(2)
    end_of(studio.submit(Painting(8)))
    with pytest.raises(DeadlineExceeded):
        future.result(PATIENCE_S)


def test_without_a_twin_loras_are_an_error_not_a_wrong_image() -> None:
    trajectory = Painting(7).trajectory()
    trajectory.adapters = (Adapter(FACTORS[0], 1),)
    with pytest.raises(Internal, match="no LoRA twin"):
        Denoiser(begun(FakeUNet()), prediction.by_name(PREDICTION)).advance([trajectory])


def test_rows_of_one_kind_are_a_group_with_its_loras_one_under_the_other() -> None:
    banks, (a, b, _) = Banks(), FACTORS
    alone, pair = [Adapter(a, 0.5)], [Adapter(b, 2.0), Adapter(a, -1.0)]
    adapted = banks.of([alone] * 2 + [pair] * 4)
    assert adapted.bank.shape == (3, 3, 6)  # the largest size that divides both
    np.testing.assert_array_equal(adapted.scales, np.array([[0.5, 0, 0], [2, 2, -1], [2, 2, -1]], np.float32))
    np.testing.assert_array_equal(adapted.bank[0], np.concatenate([a, np.zeros((2, 6), np.float16)]))
    np.testing.assert_array_equal(adapted.bank[1], np.concatenate([b, a]))
    assert banks.of([alone] * 2 + [pair] * 4).bank is adapted.bank
    assert len(banks.of([pair] * 8).bank) == 1
    assert len(banks.of([[Adapter(a, 0.5)], [Adapter(a, 0.25)]]).bank) == 2


@pytest.mark.parametrize("calls", [1, 2])
def test_rows_with_the_same_loras_stand_side_by_side(calls: int) -> None:
    twin = FakeTwin()
    trajectories = [Painting(i, guidance=7.5).trajectory() for i in range(6)]
    for i, trajectory in enumerate(trajectories):
        trajectory.adapters = (Adapter(FACTORS[i % 2], 0.1),)
    Denoiser(begun(FakeUNet()), prediction.by_name(PREDICTION), twin).advance(trajectories, calls)
    assert twin.calls == [(12 // calls, 2)] * calls


def test_banks_that_are_no_longer_used_are_let_go() -> None:
    banks = Banks()
    first = banks.of([[Adapter(FACTORS[0], 1)]]).bank
    for _ in range(8):
        banks.of([[Adapter(np.ones((1, 6), np.float16), 1)]])
    assert banks.of([[Adapter(FACTORS[0], 1)]]).bank is not first


def test_a_narrow_lora_fits_beside_a_wide_one() -> None:
    wide = np.ones((1, 9), np.float16)
    bank = Banks().of([[Adapter(FACTORS[0], 1)], [Adapter(wide, 1)]]).bank
    np.testing.assert_array_equal(bank[0, 0], [0.5] * 6 + [0] * 3)


def test_a_failure_of_the_twin_moves_nobody() -> None:
    def broken(*_: object) -> Answer:
        def answer() -> np.ndarray:
            raise Internal("no")

        return answer

    trajectories = [Painting(1).trajectory(), Painting(2).trajectory()]
    trajectories[0].adapters = (Adapter(FACTORS[0], 1),)
    before = [t.sample.copy() for t in trajectories]
    with pytest.raises(Internal):
        Denoiser(begun(FakeUNet()), prediction.by_name(PREDICTION), broken).advance(trajectories)
    for trajectory, sample in zip(trajectories, before, strict=True):
        assert trajectory.step == 0
        np.testing.assert_array_equal(trajectory.sample, sample)
