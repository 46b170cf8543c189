"""The engine: whoever else is in the batch, an image is the same; whatever breaks, everybody gets an answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from threading import Thread

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.diffusion.fake_unet import PATIENCE_S, PREDICTION, Clock, FakeUNet, Gate, Painting, begun
from underpaint.diffusion import engine as engine_module
from underpaint.diffusion import prediction
from underpaint.diffusion.batcher import StepBatcher, Ticket
from underpaint.diffusion.denoiser import Denoiser, Trajectory
from underpaint.diffusion.engine import Denoised, Engine
from underpaint.errors import Cancelled, DeadlineExceeded, Internal, InvalidArgument, Unavailable, UnderpaintError

TOLERANCE = 1e-5

# Sixteen requests, no two alike: schedulers, step counts, guidance on and off, some that skip their first steps.
SIXTEEN = [
    Painting(
        seed=100 + i,
        steps=5 + i,
        scheduler="euler" if i % 3 == 0 else "ddim",
        guidance=[1.0, 1.5, 7.5][i % 3] if i % 2 else 1.0,
        start_step=3 if i % 5 == 4 else 0,
    )
    for i in range(16)
]


class Studio:
    """An engine over a fake UNet, and short ways to use it."""

    def __init__(
        self, unet: FakeUNet, max_rows: int = 64, stacks: int = 1, capacity: int = 256, retry_for_s: float = 30.0
    ) -> None:
        self.unet, self.clock = unet, Clock()
        denoiser = Denoiser(begun(unet), prediction.by_name(PREDICTION))
        batcher = StepBatcher(max_rows, stacks, capacity=capacity)
        self.engine = Engine(denoiser, batcher, stacks, retry_for_s, self.clock)

    def submit(
        self, painting: Painting, name: str = "", deadline_in_s: float | None = None, capture: tuple[int, ...] = ()
    ) -> Future[Denoised]:
        return self.submit_as_is(name or f"r{painting.seed}", painting.trajectory(frozenset(capture)), deadline_in_s)

    def submit_as_is(
        self, name: str, trajectory: Trajectory, deadline_in_s: float | None = None, called_ns: int | None = None
    ) -> Future[Denoised]:
        now = self.clock()
        deadline_ns = None if deadline_in_s is None else now + int(deadline_in_s * 1e9)
        return self.engine.submit(Ticket(name, trajectory.rows, called_ns or now, deadline_ns), trajectory)

    def close(self) -> None:
        self.unet.open_all()
        self.engine.close()


@pytest.fixture
def studio() -> Iterator[Callable[..., Studio]]:
    """Opens studios, and closes them after the test."""
    opened: list[Studio] = []

    def open_studio(unet: FakeUNet | None = None, **options: float) -> Studio:
        opened.append(Studio(unet or FakeUNet(), **options))
        return opened[-1]

    yield open_studio
    for each in opened:
        each.close()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A UNet that failed is called again at once."""
    monkeypatch.setattr(engine_module, "_PAUSE_AFTER_FAILURE_S", 0.0)


def latents(future: Future[Denoised]) -> np.ndarray:
    return future.result(PATIENCE_S).trajectory.sample


def error_of(future: Future[Denoised]) -> BaseException:
    error = future.exception(PATIENCE_S)
    assert error is not None
    return error


def within_patience(action: Callable[[], object]) -> None:
    """Run what must not block, in a thread, so that a test of it fails instead of hanging."""
    thread = Thread(target=action, daemon=True)
    thread.start()
    thread.join(PATIENCE_S)
    assert not thread.is_alive()


# The same image in any company --------------------------------------------------------------------------------------


def test_an_image_is_the_same_alone_and_among_fifteen_others(studio: Callable[..., Studio]) -> None:
    gate = Gate()
    together = studio(FakeUNet({0: gate}))
    futures = [together.submit(SIXTEEN[0])]
    gate.wait()
    futures += [together.submit(painting) for painting in SIXTEEN[1:]]
    gate.open()
    crowd = [latents(future) for future in futures]
    assert max(together.unet.rows) == sum(p.trajectory().rows for p in SIXTEEN)  # they did share a call
    for painting, sample in zip(SIXTEEN, crowd, strict=True):
        np.testing.assert_allclose(sample, latents(studio().submit(painting)), atol=TOLERANCE)
        np.testing.assert_allclose(sample, painting.path()[-1], atol=1e-4)


def test_a_request_that_joins_at_step_20_of_others_changes_nothing(studio: Callable[..., Studio]) -> None:
    others = [Painting(i, steps=30, guidance=3.0 if i % 2 else 1.0) for i in range(4)]
    newcomer = Painting(50, steps=12, scheduler="euler", guidance=5.0)
    first, twentieth = Gate(), Gate()
    shared = studio(FakeUNet({0: first, 20: twentieth}))
    futures = [shared.submit(others[0])]
    first.wait()
    futures += [shared.submit(painting) for painting in others[1:]]
    first.open()
    twentieth.wait()
    assert shared.engine.peek("r0").step == 20
    futures.append(shared.submit(newcomer))
    twentieth.open()
    for painting, future in zip([*others, newcomer], futures, strict=True):
        np.testing.assert_allclose(latents(future), latents(studio().submit(painting)), atol=TOLERANCE)
    assert shared.unet.rows[20:22] == [6, 8]  # it joined at the next turn


PAINTINGS = st.builds(
    lambda seed, steps, scheduler, guidance, skipped: Painting(
        seed, steps, scheduler, guidance, min(skipped, steps - 1)
    ),
    seed=st.integers(0, 10_000),
    steps=st.integers(1, 8),
    scheduler=st.sampled_from(["ddim", "euler", "dpm_solver_multistep"]),
    guidance=st.sampled_from([1.0, 1.5, 4.0]),
    skipped=st.sampled_from([0, 0, 1, 4]),
)


@settings(max_examples=30, deadline=None)
@given(st.lists(PAINTINGS, min_size=1, max_size=10, unique_by=lambda p: p.seed), st.integers(2, 9), st.integers(1, 3))
def test_any_company_any_batch_limit_any_number_of_stacks(
    paintings: list[Painting], max_rows: int, stacks: int
) -> None:
    busy = Studio(FakeUNet(), max_rows, stacks)
    try:
        for painting, future in [(p, busy.submit(p)) for p in paintings]:
            np.testing.assert_allclose(latents(future), painting.path()[-1], atol=1e-4)
            assert future.result().steps_run == painting.steps - painting.start_step
        assert max(busy.unet.rows) <= max_rows
        steps = sum(p.steps - p.start_step for p in paintings)
        activity = busy.engine.activity()
        assert (activity.running, activity.waiting, activity.steps, activity.retries) == (0, 0, steps, 0)
        assert (activity.unet_calls, activity.unet_rows) == (len(busy.unet.calls), sum(busy.unet.rows))
    finally:
        busy.close()


# Captured latents, progress, times ----------------------------------------------------------------------------------


@pytest.mark.parametrize("scheduler", ["ddim", "euler"])
def test_captured_latents_lie_on_the_path_and_lead_to_the_same_end(
    studio: Callable[..., Studio], scheduler: str
) -> None:
    painting = Painting(7, steps=12, scheduler=scheduler, guidance=3.0)
    shared = studio()
    other = shared.submit(Painting(8, steps=9))
    whole = shared.submit(painting, capture=(3, 8)).result(PATIENCE_S)
    latents(other)
    assert sorted(whole.trajectory.captured) == [3, 8]
    assert whole.steps_run == 12
    path = painting.path()
    for step, captured in whole.trajectory.captured.items():
        np.testing.assert_allclose(captured, path[step], atol=TOLERANCE)
        resumed = painting.trajectory()
        resumed.sample, resumed.step = captured, step
        rest = studio().submit_as_is("resumed", resumed).result(PATIENCE_S)
        np.testing.assert_allclose(rest.trajectory.sample, whole.trajectory.sample, atol=TOLERANCE)
        assert rest.steps_run == 12 - step


def test_a_captured_sample_keeps_no_batch_alive(studio: Callable[..., Studio]) -> None:
    captured = studio().submit(Painting(7), capture=(2,)).result(PATIENCE_S).trajectory.captured[2]
    assert captured.base is None


def test_peek_shows_how_far_a_request_is_and_what_it_looks_like(studio: Callable[..., Studio]) -> None:
    painting, gates = Painting(7, steps=5), {0: Gate(), 3: Gate()}
    one = studio(FakeUNet(gates))
    assert one.engine.peek("r7") is None
    future = one.submit(painting)
    gates[0].wait()
    before = one.engine.peek("r7")
    assert before is not None
    assert (before.step, before.num_inference_steps, before.clean) == (0, 5, None)
    gates[0].open()
    gates[3].wait()
    during = one.engine.peek("r7")
    assert during is not None
    assert (during.step, during.num_inference_steps) == (3, 5)
    table, path = painting.schedule, painting.path()
    # x_3 = alpha·clean + sigma·noise and x_2 = alpha·clean + sigma·noise, of the same step: two equations for clean.
    here = np.array([[table.alphas[2], table.sigmas[2]], [table.alphas_next[2], table.sigmas_next[2]]], np.float64)
    clean, _ = np.linalg.solve(here, np.stack([path[2].ravel(), path[3].ravel()]))
    np.testing.assert_allclose(during.clean.ravel(), clean, atol=1e-4)
    gates[3].open()
    latents(future)
    assert one.engine.peek("r7") is None


def test_the_times_of_a_request_are_told(studio: Callable[..., Studio]) -> None:
    gates = {0: Gate(), 1: Gate()}
    one = studio(FakeUNet(gates))
    began = one.clock()
    first = one.submit(Painting(1, steps=2))
    gates[0].wait()
    one.clock.advance(2)
    second = one.submit(Painting(2, steps=1))
    one.clock.advance(3)
    gates[0].open()
    gates[1].wait()
    one.clock.advance(4)
    gates[1].open()
    times = [
        (d.started_ns - began, d.finished_ns - began) for d in (first.result(PATIENCE_S), second.result(PATIENCE_S))
    ]
    assert times == [(0, 9 * 10**9), (5 * 10**9, 9 * 10**9)]


# Cancelled and late -------------------------------------------------------------------------------------------------


def test_a_request_cancelled_in_its_call_leaves_at_once_and_others_go_on(studio: Callable[..., Studio]) -> None:
    gate, stays = Gate(), Painting(2, steps=6)
    one = studio(FakeUNet({2: gate}))
    leaves, kept = one.submit(Painting(1, steps=6)), one.submit(stays)
    gate.wait()
    step = one.engine.peek("r1").step
    within_patience(lambda: one.engine.cancel("r1"))  # although the UNet is stuck
    assert isinstance(leaves.exception(0), Cancelled)
    assert f"at step {step}" in str(leaves.exception(0))
    assert one.engine.peek("r1") is None
    gate.open()
    np.testing.assert_allclose(latents(kept), stays.path()[-1], atol=TOLERANCE)
    assert sum(Painting(1).prompt in call for call in one.unet.calls) == step + 1  # no step after its cancellation


def test_a_request_cancelled_while_it_waits_never_starts(studio: Callable[..., Studio]) -> None:
    gate = Gate()
    one = studio(FakeUNet({0: gate}))
    busy = one.submit(Painting(1))
    gate.wait()
    waits = one.submit(Painting(2))
    assert one.engine.cancel("r2") is True
    assert isinstance(waits.exception(0), Cancelled)
    gate.open()
    latents(busy)
    assert all(Painting(2).prompt not in call for call in one.unet.calls)


def test_a_cancellation_may_overtake_its_request_once(studio: Callable[..., Studio]) -> None:
    one = studio()
    called_ns = one.clock()
    one.clock.advance(0.1)
    assert one.engine.cancel("r1") is False
    one.clock.advance(0.1)
    with pytest.raises(Cancelled, match="r1"):
        one.submit_as_is("r1", Painting(1).trajectory(), called_ns=called_ns)
    latents(one.submit_as_is("r1", Painting(1).trajectory(), called_ns=called_ns))  # it was meant for one of them


def test_a_cancellation_is_not_meant_for_what_is_called_after_it(studio: Callable[..., Studio]) -> None:
    one = studio()
    one.engine.cancel("r1")
    one.clock.advance(0.1)
    latents(one.submit(Painting(1)))


@pytest.mark.parametrize(("seconds", "remembered"), [(9.9, True), (10.1, False)])
def test_a_cancellation_that_overtook_is_forgotten_after_a_while(
    studio: Callable[..., Studio], seconds: float, remembered: bool
) -> None:
    one = studio()
    called_ns = one.clock()
    one.clock.advance(0.1)
    one.engine.cancel("r1")
    one.clock.advance(seconds)
    one.engine.cancel("another")  # forgetting happens when there is something new to remember
    if remembered:
        with pytest.raises(Cancelled):
            one.submit_as_is("r1", Painting(1).trajectory(), called_ns=called_ns)
    else:
        latents(one.submit_as_is("r1", Painting(1).trajectory(), called_ns=called_ns))


def test_cancelling_what_is_done_changes_nothing(studio: Callable[..., Studio]) -> None:
    one = studio()
    future = one.submit(Painting(1))
    sample = latents(future)
    assert one.engine.cancel("r1") is False
    assert latents(future) is sample


@pytest.mark.parametrize("steps", [2, 9])  # cancelled in its last call, or before
def test_a_successor_of_a_cancelled_request_is_not_its_heir(studio: Callable[..., Studio], steps: int) -> None:
    gate, heir = Gate(), Painting(2, steps=4)
    one = studio(FakeUNet({1: gate}))
    predecessor = one.submit(Painting(1, steps=steps), name="same")
    gate.wait()
    one.engine.cancel("same")
    future = one.submit(heir, name="same")
    gate.open()
    np.testing.assert_allclose(latents(future), heir.path()[-1], atol=TOLERANCE)
    assert isinstance(predecessor.exception(0), Cancelled)


def test_a_request_cancelled_in_its_last_call_is_not_answered_twice(studio: Callable[..., Studio]) -> None:
    gate = Gate()
    one = studio(FakeUNet({1: gate}))
    future = one.submit(Painting(1, steps=2))
    gate.wait()
    assert one.engine.cancel("r1") is True
    gate.open()
    latents(one.submit(Painting(2)))  # the thread lives on
    assert isinstance(future.exception(0), Cancelled)


def test_a_late_request_leaves_at_the_next_turn(studio: Callable[..., Studio]) -> None:
    gate, stays = Gate(), Painting(2, steps=6)
    one = studio(FakeUNet({3: gate}))
    late = one.submit(Painting(1, steps=50), deadline_in_s=5)
    kept = one.submit(stays, deadline_in_s=6)
    gate.wait()
    one.clock.advance(5.5)
    gate.open()
    assert isinstance(error_of(late), DeadlineExceeded)
    assert str(error_of(late)).endswith("of 50")
    np.testing.assert_allclose(latents(kept), stays.path()[-1], atol=TOLERANCE)


def test_a_request_that_comes_too_late_never_starts(studio: Callable[..., Studio]) -> None:
    one = studio()
    assert isinstance(error_of(one.submit(Painting(1), deadline_in_s=0)), DeadlineExceeded)
    latents(one.submit(Painting(2)))
    assert all(Painting(1).prompt not in call for call in one.unet.calls)


# What breaks --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("failure", [Unavailable("restarting"), Internal("stub process is not healthy")])
def test_a_unet_that_comes_back_costs_time_but_no_request(studio: Callable[..., Studio], failure: Exception) -> None:
    one = studio(FakeUNet(failures={2: failure, 3: failure, 6: failure}))
    for painting, future in [(p, one.submit(p)) for p in SIXTEEN[:4]]:
        np.testing.assert_allclose(latents(future), painting.path()[-1], atol=1e-4)
    assert one.engine.activity().retries == 3


class GoneUNet(FakeUNet):
    """Fails for ever; each call takes a while, by the engine's clock."""

    def __init__(self, takes_s: float) -> None:
        super().__init__(fail_always=Unavailable("the UNet is gone"))
        self.takes_s = takes_s
        self.clock: Clock | None = None

    def __call__(self, *args: np.ndarray) -> np.ndarray:
        if self.clock is not None:
            self.clock.advance(self.takes_s)
        return super().__call__(*args)


def test_a_unet_that_stays_away_fails_its_requests_when_patience_ends(studio: Callable[..., Studio]) -> None:
    unet = GoneUNet(takes_s=2.0)
    one = studio(unet, retry_for_s=7.0)
    began = one.clock()
    unet.clock = one.clock
    future = one.submit(Painting(1))
    assert isinstance(error_of(future), Unavailable)
    assert str(error_of(future)) == "the UNet is gone"
    assert 7.0 < (one.clock() - began) / 1e9 <= 7.0 + 2 * 2.0
    unet.fail_always = None
    latents(one.submit(Painting(2)))  # the thread lives on


def test_patience_starts_anew_after_a_success(studio: Callable[..., Studio]) -> None:
    gone = Unavailable("for a moment")
    gates = {n: Gate() for n in range(8)}
    one = studio(FakeUNet(gates, failures=dict.fromkeys((1, 3, 5), gone)), retry_for_s=5.0)
    future = one.submit(Painting(1, steps=5))
    for gate in gates.values():
        gate.wait()
        one.clock.advance(4)
        gate.open()
    latents(future)


def test_a_late_request_does_not_wait_for_a_unet_that_is_gone(studio: Callable[..., Studio]) -> None:
    unet = GoneUNet(takes_s=1.0)
    one = studio(unet, retry_for_s=1000.0)
    unet.clock = one.clock
    assert isinstance(error_of(one.submit(Painting(1), deadline_in_s=3)), DeadlineExceeded)


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (ValueError("shapes do not match"), Internal),
        (KeyError("noise_pred"), Internal),
        (InvalidArgument("encoder_hidden_states: unexpected shape"), InvalidArgument),
    ],
)
def test_a_request_that_no_call_bears_fails_alone_and_at_once(
    studio: Callable[..., Studio], raised: Exception, expected: type[UnderpaintError]
) -> None:
    gate, poison = Gate(), Painting(99)
    one = studio(FakeUNet({0: gate}, refuse={poison.prompt: raised}))
    futures = [one.submit(SIXTEEN[0])]
    gate.wait()
    futures += [one.submit(painting) for painting in SIXTEEN[1:8]]
    bad = one.submit(poison)
    futures += [one.submit(painting) for painting in SIXTEEN[8:]]
    gate.open()
    assert isinstance(error_of(bad), expected)
    assert str(raised.args[0]) in str(error_of(bad))
    for painting, future in zip(SIXTEEN, futures, strict=True):
        np.testing.assert_allclose(latents(future), painting.path()[-1], atol=1e-4)
    assert sum(poison.prompt in call for call in one.unet.calls) <= 6  # 17, 9, 5, 3, 2, 1: found by halving, once


def test_a_request_of_another_size_harms_nobody(studio: Callable[..., Studio]) -> None:
    gate = Gate()
    one = studio(FakeUNet({0: gate}))
    ours = [one.submit(Painting(1))]
    gate.wait()
    large = Painting(2).trajectory()
    large.sample = np.zeros((3, 8, 8), np.float32)
    theirs = one.submit_as_is("large", large)
    ours.append(one.submit(Painting(3, guidance=3.0)))
    gate.open()
    assert latents(theirs).shape == (3, 8, 8)
    for painting, future in zip([Painting(1), Painting(3, guidance=3.0)], ours, strict=True):
        np.testing.assert_allclose(latents(future), painting.path()[-1], atol=TOLERANCE)


@pytest.mark.filterwarnings("ignore:invalid value")
def test_values_that_are_no_numbers_fail_their_own_request_only(studio: Callable[..., Studio]) -> None:
    gate, sick = Gate(), Painting(99, guidance=2.0)
    one = studio(FakeUNet({0: gate}, not_a_number_for=frozenset({sick.prompt})))
    futures = [one.submit(SIXTEEN[0])]
    gate.wait()
    futures += [one.submit(painting) for painting in SIXTEEN[1:4]]
    bad = one.submit(sick)
    gate.open()
    assert type(error_of(bad)) is Internal
    assert "not finite" in str(error_of(bad))
    for painting, future in zip(SIXTEEN[:4], futures, strict=True):
        np.testing.assert_allclose(latents(future), painting.path()[-1], atol=1e-4)


# Admission, several stacks, the end ---------------------------------------------------------------------------------


def test_a_name_in_use_is_refused_and_its_owner_unharmed(studio: Callable[..., Studio]) -> None:
    gate = Gate()
    one = studio(FakeUNet({0: gate}))
    owner = one.submit(Painting(1), name="same")
    gate.wait()
    with pytest.raises(InvalidArgument, match=r"^request_id: got 'same'"):
        one.submit(Painting(2), name="same")
    gate.open()
    np.testing.assert_allclose(latents(owner), Painting(1).path()[-1], atol=TOLERANCE)
    latents(one.submit(Painting(2), name="same"))  # free again


def test_more_than_the_capacity_is_refused(studio: Callable[..., Studio]) -> None:
    gate = Gate()
    one = studio(FakeUNet({0: gate}), capacity=2)
    futures = [one.submit(Painting(i)) for i in (1, 2)]
    with pytest.raises(Unavailable, match="2 requests"):
        one.submit(Painting(3))
    gate.open()
    for future in futures:
        latents(future)
    latents(one.submit(Painting(3)))


def test_several_calls_are_in_flight_and_share_no_request(studio: Callable[..., Studio]) -> None:
    gates = {n: Gate() for n in range(3)}
    # The first two are unguided, so that neither is spread over two calls.
    paintings = [Painting(i, steps=4 + i % 3, guidance=2.0 if i in (3, 5, 7) else 1.0) for i in range(9)]
    three = studio(FakeUNet(gates), stacks=3)
    futures = [three.submit(paintings[0])]
    gates[0].wait()
    futures.append(three.submit(paintings[1]))
    gates[1].wait()
    futures += [three.submit(painting) for painting in paintings[2:]]
    gates[2].wait()  # all three at the same time
    together = [abs(prompt) for call in three.unet.calls[:3] for prompt in set(map(abs, call))]
    assert len(together) == len(set(together)) >= 3
    assert three.engine.activity().running == len(together)
    three.unet.open_all()
    for painting, future in zip(paintings, futures, strict=True):
        np.testing.assert_allclose(latents(future), painting.path()[-1], atol=1e-4)


def test_a_lone_guided_request_is_spread_over_idle_stacks(studio: Callable[..., Studio]) -> None:
    painting = Painting(1, steps=3, guidance=2.0)
    two = studio(stacks=2)
    np.testing.assert_allclose(latents(two.submit(painting)), painting.path()[-1], atol=TOLERANCE)
    assert two.unet.rows == [1] * 6
    assert two.engine.activity().unet_calls == 6


def test_a_stuck_call_does_not_hold_up_the_other_stack(studio: Callable[..., Studio]) -> None:
    stuck = Gate()
    two = studio(FakeUNet({0: stuck}), stacks=2)
    held = two.submit(Painting(1))
    stuck.wait()
    np.testing.assert_allclose(latents(two.submit(Painting(2))), Painting(2).path()[-1], atol=TOLERANCE)
    assert not held.done()


def test_closing_fails_what_is_left_and_admits_nobody(studio: Callable[..., Studio]) -> None:
    gate = Gate()
    one = studio(FakeUNet({0: gate}))
    flying = one.submit(Painting(1))
    gate.wait()
    waiting = one.submit(Painting(2))
    waiting.add_done_callback(lambda _: gate.open())  # or close() waits a second for the thread
    within_patience(one.engine.close)
    for future in (flying, waiting):
        assert isinstance(future.exception(0), Unavailable)
        assert "shut down" in str(future.exception(0))
    with pytest.raises(Unavailable, match="shutting down"):
        one.submit(Painting(3))


def test_closing_an_idle_engine_ends_its_threads(studio: Callable[..., Studio]) -> None:
    one = studio(stacks=3)
    within_patience(one.engine.close)
    assert not any(thread.is_alive() for thread in one.engine._threads)
