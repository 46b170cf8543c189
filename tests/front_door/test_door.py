"""The front door's flow, with a fake server behind it: whatever happens, a caller gets an image or the right error."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pytest

from tests.front_door.fake_server import DEPLOYMENT, FakeServer, open_door, run
from underpaint.errors import (
    Cancelled,
    DeadlineExceeded,
    Internal,
    InvalidArgument,
    NotFound,
    Unavailable,
    UnderpaintError,
    Unsupported,
)
from underpaint.evidence import Evidence
from underpaint.front_door.door import FrontDoor
from underpaint.front_door.reply import Reply
from underpaint.policies import POLICIES, Accept, Escalate, Noise, Plan, Policy, Settings, Verdict
from underpaint.requests import GenerateRequest

SLOW = frozenset({"big"})


def circle(request_id: str | None = None, **wishes: Any) -> GenerateRequest:
    return GenerateRequest.parse({"prompt": "a red circle", "request_id": request_id, **wishes})


def serving(door: FrontDoor, request_id: str, **options: Any) -> asyncio.Task[Reply]:
    """A request under way."""
    return asyncio.create_task(door.serve(circle(request_id), **options))


async def ends_with(kind: type[UnderpaintError], under_way: Awaitable[object], message: str | None = None) -> str:
    with pytest.raises(kind, match=message) as caught:
        await under_way
    assert type(caught.value) is kind
    return str(caught.value)


# Served -------------------------------------------------------------------------------------------------------------


def test_a_request_becomes_one_call_and_its_answer_a_reply() -> None:
    server = FakeServer()
    wishes = {"negative_prompt": "blue", "seed": 5, "num_inference_steps": 7, "guidance_scale": 1.5}
    request = circle("mine", **wishes, scheduler="euler", width=6, height=4)
    reply = run(open_door(server).serve(request))
    (call,) = server.calls
    assert call.model == "big"
    assert {name: tensor.item() for name, tensor in call.inputs.items()} == {
        "prompt": b"a red circle",
        "negative_prompt": b"blue",
        "seed": 5,
        "num_inference_steps": 7,
        "guidance_scale": 1.5,
        "scheduler": b"euler",
        "width": 6,
        "height": 4,
    }
    assert {tensor.shape for tensor in call.inputs.values()} == {(1, 1)}
    assert set(call.outputs) == {"image", "prompt_tokens", "timings_ns", "steps_run"}
    assert set(call.parameters) == {"request_id", "called_ns", "deadline_ns", "company"}
    assert call.parameters["request_id"] == "mine"
    assert reply.image.shape == (4, 6, 3)
    outcome = reply.outcome
    assert (outcome.request_id, outcome.variant, outcome.policy, outcome.start) == ("mine", "big", "vanilla", "noise")
    assert (outcome.seed, outcome.scheduler, outcome.guidance_scale) == (5, "euler", 1.5)
    assert (outcome.num_inference_steps, outcome.steps_run, outcome.steps_skipped) == (7, 7, 0)
    assert (outcome.width, outcome.height, outcome.warnings) == (6, 4, ())
    assert (outcome.prompt, outcome.negative_prompt) == ("a red circle", "blue")


def test_the_seed_that_was_drawn_is_the_one_that_is_told() -> None:
    server = FakeServer()
    reply = run(open_door(server).serve(circle()))
    assert server.calls[0].inputs["seed"].item() == reply.outcome.seed


def test_prompts_of_every_script_travel_as_utf8() -> None:
    server = FakeServer()
    reply = run(open_door(server).serve(GenerateRequest("赤い円 – größer")))
    assert server.calls[0].inputs["prompt"].item() == "赤い円 – größer".encode()
    assert json.loads(reply.outcome.to_json())["prompt"] == "赤い円 – größer"


def test_a_request_without_a_name_gets_one() -> None:
    server = FakeServer()
    door = open_door(server)

    async def both() -> list[Reply]:
        return await asyncio.gather(door.serve(circle()), door.serve(circle()))

    names = [reply.outcome.request_id for reply in run(both())]
    assert all(names)
    assert len(set(names)) == 2
    assert {call.request_id for call in server.calls} == set(names)


def test_the_stages_make_up_the_whole() -> None:
    before = time.monotonic_ns()
    server = FakeServer(slow=SLOW)

    async def scenario() -> Reply:
        under_way = serving(open_door(server), "mine")
        await server.until_painting(1)
        await asyncio.sleep(0.005)  # as long as the fake says that denoising took
        server.finish("mine")
        return await under_way

    timings = run(scenario()).outcome.timings_ms
    stages = (timings.admission, timings.encode, timings.queue, timings.denoise, timings.decode)
    assert all(stage >= 0 for stage in stages)
    assert (timings.queue, timings.denoise) == (1.0, 2.0)
    assert sum(stages) == pytest.approx(timings.total, abs=0.01)
    assert 3.0 <= timings.total <= (time.monotonic_ns() - before) / 1e6


def test_a_variant_of_the_callers_choice() -> None:
    server = FakeServer()
    assert run(open_door(server).serve(circle(variant="little"))).outcome.num_inference_steps == 10
    assert [call.model for call in server.calls] == ["little"]


@pytest.mark.parametrize(("tokens", "warned"), [(22, False), (23, True), (400, True)])
def test_an_over_long_prompt_is_served_with_a_warning(tokens: int, warned: bool) -> None:
    reply = run(open_door(FakeServer(prompt_tokens=tokens)).serve(circle()))
    expected = (f"prompt: {tokens} tokens, of which big reads the first 22",) if warned else ()
    assert reply.outcome.warnings == expected


def test_an_over_long_negative_prompt_is_warned_of_too() -> None:
    reply = run(open_door(FakeServer(negative_tokens=30)).serve(circle()))
    assert reply.outcome.warnings == ("negative_prompt: 30 tokens, of which big reads the first 22",)


def test_a_deadline_travels_along() -> None:
    server = FakeServer()
    before = time.monotonic_ns()
    run(open_door(server).serve(circle(deadline_ms=4000)))
    (call,) = server.calls
    deadline_ns = int(call.parameters["deadline_ns"])
    assert 0 <= deadline_ns - before - 4_000_000_000 <= time.monotonic_ns() - before
    assert 4.0 < call.timeout_s <= 5.0  # a little longer than the denoiser needs to notice


# Refused ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wishes", "field"),
    [
        ({"variant": "huge"}, "variant"),
        ({"policy": "magic"}, "policy"),
        ({"num_inference_steps": 51}, "num_inference_steps"),
        ({"num_inference_steps": 51, "variant": "little"}, "num_inference_steps"),
        ({"guidance_scale": 20.5}, "guidance_scale"),
        ({"scheduler": "dpm"}, "scheduler"),
        ({"width": 7}, "width"),
        ({"height": 5, "variant": "big"}, "height"),
    ],
)
def test_what_no_variant_can_do_is_refused_before_any_work(wishes: dict[str, Any], field: str) -> None:
    server = FakeServer()
    door = open_door(server)
    message = run(ends_with(InvalidArgument, door.serve(circle(**wishes))))
    assert field in message.partition(":")[0]
    assert "; allowed: " in message
    assert server.calls == []
    assert door.in_flight == 0


def test_more_than_the_capacity_is_refused_and_a_place_is_free_again() -> None:
    server = FakeServer(slow=SLOW)
    door = open_door(server, capacity=3, concurrency=2)

    async def scenario() -> None:
        inside = [serving(door, f"r{i}") for i in range(3)]
        await server.until_painting(2)
        assert door.in_flight == 3
        await ends_with(Unavailable, door.serve(circle("late")), "3 requests")
        server.finish("r0")
        await inside[0]
        inside.append(serving(door, "again"))
        await server.until_painting(2)
        for name in ("r1", "r2", "again"):
            while name not in server.painting:
                await asyncio.sleep(0)
            server.finish(name)
        await asyncio.gather(*inside)

    run(scenario())
    assert door.in_flight == 0


def test_a_name_in_use_is_refused_and_free_afterwards() -> None:
    server = FakeServer(slow=SLOW)
    door = open_door(server)

    async def scenario() -> None:
        first = serving(door, "same")
        await server.until_painting(1)
        await ends_with(InvalidArgument, door.serve(circle("same")), "^request_id: got 'same'")
        server.finish("same")
        await first
        second = serving(door, "same")
        await server.until_painting(1)
        server.finish("same")
        await second

    run(scenario())


@pytest.mark.parametrize("kind", [InvalidArgument, NotFound, Unavailable, Cancelled, Unsupported, Internal])
def test_an_error_of_a_model_reaches_the_caller_as_it_is(kind: type[UnderpaintError]) -> None:
    server = FakeServer(failure=kind("big_text_encoder: something"))
    door = open_door(server)
    run(ends_with(kind, door.serve(circle("mine")), "^big_text_encoder: something$"))
    assert door.in_flight == 0
    server.failure = None
    run(open_door(server).serve(circle("mine")))


def test_a_defect_of_ours_leaves_the_door_open() -> None:
    server = FakeServer(failure=KeyError("timings_ns"))
    door = open_door(server, concurrency=1)

    async def scenario() -> None:
        for _ in range(3):
            with pytest.raises(KeyError):
                await door.serve(circle("mine"))
        server.failure = None
        await door.serve(circle("mine"))

    run(scenario())


def test_only_so_many_are_painted_at_once_and_all_are_in_the_end() -> None:
    server = FakeServer(slow=SLOW)
    door = open_door(server, capacity=10, concurrency=2)

    async def scenario() -> list[Reply]:
        under_way = [serving(door, f"r{i}") for i in range(7)]
        for i in range(7):
            await server.until_painting(min(2, 7 - i))
            server.finish(server.painting[0])
            await under_way[i]
        return await asyncio.gather(*under_way)

    assert len(run(scenario())) == 7
    assert server.most_at_once == 2


# Withdrawn ----------------------------------------------------------------------------------------------------------


def test_cancelling_what_is_being_painted_reaches_its_denoiser() -> None:
    server = FakeServer(slow=SLOW)
    door = open_door(server)

    async def scenario() -> None:
        goes, stays = serving(door, "goes"), serving(door, "stays")
        await server.until_painting(2)
        assert door.variant_of("goes") == "big"
        await door.cancel("goes")
        await ends_with(Cancelled, goes, "goes")
        assert server.painting == ["stays"]
        server.finish("stays")
        await stays

    run(scenario())
    assert ("big", "goes") in server.cancelled()
    assert all(request_id == "goes" and variant == "big" for variant, request_id in server.cancelled())


def test_cancelling_what_waits_for_admission_means_that_it_is_never_painted() -> None:
    server = FakeServer(slow=SLOW)
    door = open_door(server, concurrency=1)

    async def scenario() -> None:
        first, waits, last = serving(door, "first"), serving(door, "waits"), serving(door, "last")
        await server.until_painting(1)
        assert door.variant_of("waits") is None
        await door.cancel("waits")
        await ends_with(Cancelled, waits, "waits")
        assert not first.done()
        server.finish("first")
        await first
        await server.until_painting(1)  # its turn went to the next
        server.finish("last")
        await last

    run(scenario())
    assert [call.request_id for call in server.calls] == ["first", "last"]


def test_cancelling_an_unknown_request_says_so() -> None:
    server = FakeServer()
    run(ends_with(NotFound, open_door(server).cancel("nobody"), "nobody"))
    assert sorted(server.cancelled()) == [("big", "nobody"), ("little", "nobody")]  # another door may have sent it


def test_cancelling_what_came_through_another_door() -> None:
    server = FakeServer(elsewhere={"theirs"})
    run(open_door(server).cancel("theirs"))
    assert ("big", "theirs") in server.cancelled()


def test_cancelling_works_although_one_denoiser_is_dead() -> None:
    server = FakeServer(elsewhere={"theirs"}, dead={"little"})
    run(open_door(server).cancel("theirs"))
    assert ("big", "theirs") in server.cancelled()


def test_a_caller_who_hangs_up_frees_the_denoiser() -> None:
    server = FakeServer(slow=SLOW)
    door = open_door(server)
    gone = False

    async def scenario() -> None:
        nonlocal gone
        under_way = serving(door, "mine", hung_up=lambda: gone)
        await server.until_painting(1)
        assert server.cancelled() == []
        gone = True
        await ends_with(Cancelled, under_way, "mine")

    run(scenario())
    assert server.cancelled() == [("big", "mine")]
    assert server.painting == []
    assert door.in_flight == 0


def test_a_caller_who_hangs_up_before_admission_is_never_painted() -> None:
    server = FakeServer(slow=SLOW)
    door = open_door(server, concurrency=1)

    async def scenario() -> None:
        first = serving(door, "first")
        await server.until_painting(1)
        await ends_with(Cancelled, serving(door, "gone", hung_up=lambda: True))
        server.finish("first")
        await first

    run(scenario())
    assert [call.request_id for call in server.calls] == ["first"]


@pytest.mark.parametrize("failure", [Unavailable("no answer"), Internal("Stub process is not healthy")])
def test_a_caller_is_let_go_for_their_own_reason_although_the_denoiser_is_dead(failure: UnderpaintError) -> None:
    server = FakeServer(slow=SLOW, dead={"big"}, death=failure)
    run(ends_with(Cancelled, open_door(server).serve(circle("mine"), hung_up=lambda: True)))
    run(ends_with(DeadlineExceeded, open_door(server).serve(circle("mine", deadline_ms=10))))


# Too late -----------------------------------------------------------------------------------------------------------


def test_past_its_deadline_a_request_is_given_up_and_the_denoiser_told() -> None:
    server = FakeServer(slow=SLOW)
    run(ends_with(DeadlineExceeded, open_door(server).serve(circle("mine", deadline_ms=20))))
    assert server.cancelled() == [("big", "mine")]
    assert server.painting == []


def test_a_deadline_may_pass_before_admission() -> None:
    server = FakeServer(slow=SLOW)
    door = open_door(server, concurrency=1)

    async def scenario() -> None:
        first = serving(door, "first")
        await server.until_painting(1)
        await ends_with(DeadlineExceeded, door.serve(circle("late", deadline_ms=20)))
        server.finish("first")
        await first

    run(scenario())
    assert [call.request_id for call in server.calls] == ["first"]
    assert server.cancelled() == []


def test_without_a_deadline_patience_ends_too() -> None:
    server = FakeServer(slow=SLOW)
    run(ends_with(Unavailable, open_door(server, timeout_s=0.03).serve(circle("mine")), "did not answer"))


def test_when_patience_ends_the_denoiser_does_not_paint_on() -> None:
    server = FakeServer(slow=SLOW)
    run(ends_with(Unavailable, open_door(server, timeout_s=0.03).serve(circle("mine")), "did not answer"))
    assert "deadline_ns" in server.calls[0].parameters or ("big", "mine") in server.cancelled()


# A denoiser that dies -----------------------------------------------------------------------------------------------


def watched(door: FrontDoor, scenario: Callable[[], Awaitable[None]]) -> None:
    """Run a scenario while the door feels the denoisers' pulse."""

    async def both() -> None:
        watch = asyncio.create_task(door.watch())
        try:
            await scenario()
        finally:
            assert not watch.done()
            watch.cancel()

    run(both())


def test_who_waits_for_a_dead_denoiser_is_told_soon_and_others_are_served() -> None:
    server = FakeServer(slow=frozenset({"big", "little"}), dead={"big"})
    door = open_door(server)

    async def scenario() -> None:
        waits = [serving(door, "a"), serving(door, "b")]
        other = asyncio.create_task(door.serve(circle("c", variant="little")))
        await server.until_painting(3)
        for each in waits:
            await ends_with(Unavailable, each, "big_denoiser.*try again")
        assert not other.done()
        server.finish("c")
        await other

    before = time.monotonic()
    watched(door, scenario)
    assert time.monotonic() - before < 5.0  # and not the 10 s of the call
    assert door.in_flight == 0


def test_a_missed_heartbeat_is_forgiven() -> None:
    server = FakeServer(slow=SLOW, dead={"big"})
    door = open_door(server, heartbeats_missed=3)

    async def scenario() -> None:
        under_way = serving(door, "mine")
        for _ in range(3):
            server.dead = {"big"}
            missed = len(server.asked)
            while len(server.asked) < missed + 2:
                await asyncio.sleep(0)
            server.dead = set()
            answered = len(server.asked)
            while len(server.asked) < answered + 1:
                await asyncio.sleep(0)
        assert not under_way.done()
        server.finish("mine")
        await under_way

    watched(door, scenario)


def test_who_waits_for_a_denoiser_that_was_replaced_is_told() -> None:
    """The new process answers its heartbeats, but never knew the request."""
    server = FakeServer(slow=SLOW)
    door = open_door(server)

    async def scenario() -> None:
        lost = serving(door, "lost")
        await server.until_painting(1)
        server.alive_since_ns = time.monotonic_ns()
        await ends_with(Unavailable, lost, "try again")
        kept = serving(door, "kept")  # sent to the new one
        await server.until_painting(1)
        beats = len(server.asked)
        while len(server.asked) < beats + 3:
            await asyncio.sleep(0)
        server.finish("kept")
        await kept

    watched(door, scenario)


def test_nobody_is_asked_for_a_pulse_who_owes_nothing() -> None:
    server = FakeServer()
    door = open_door(server)

    async def scenario() -> None:
        await door.serve(circle())
        await asyncio.sleep(0.03)

    watched(door, scenario)
    assert server.asked == []


# Escalation ---------------------------------------------------------------------------------------------------------


class SmallFirst(Policy):
    """Paints with the small variant, likes nothing that it paints, and keeps what it saw."""

    name = "small_first"

    def __init__(self) -> None:
        self.judged: list[str] = []

    def plan(self, request: GenerateRequest, evidence: Evidence, settings: Settings) -> Plan:
        return Plan(settings.small, Noise())

    def after(self, plan: Plan, score: float | None, time_left_s: float | None) -> Verdict:
        self.judged.append(plan.variant)
        return Accept() if plan.variant == "big" else Escalate(Plan("big", Noise()))


@pytest.fixture
def small_first(monkeypatch: pytest.MonkeyPatch) -> SmallFirst:
    policy = SmallFirst()
    monkeypatch.setitem(POLICIES, policy.name, policy)
    return policy


def test_a_policy_that_is_not_content_has_it_painted_again(small_first: SmallFirst) -> None:
    server = FakeServer(prompt_tokens=10)
    reply = run(open_door(server).serve(circle("mine", policy="small_first", seed=4)))
    assert small_first.judged == ["little", "big"]
    assert [call.model for call in server.calls] == ["little", "big"]
    assert [call.inputs["num_inference_steps"].item() for call in server.calls] == [10, 25]
    assert [call.inputs["seed"].item() for call in server.calls] == [4, 4]
    np.testing.assert_array_equal(np.unique(reply.image), [2])  # the second call's image
    assert (reply.outcome.variant, reply.outcome.policy, reply.outcome.steps_run) == ("big", "small_first", 25)
    assert reply.outcome.warnings == ()  # 10 tokens are too many for the small variant only


def test_a_second_painting_can_be_cancelled_too(small_first: SmallFirst) -> None:
    server = FakeServer(slow=SLOW)
    door = open_door(server)

    async def scenario() -> None:
        under_way = asyncio.create_task(door.serve(circle("mine", policy="small_first")))
        while door.variant_of("mine") != "big" or not server.painting:
            await asyncio.sleep(0)
        await door.cancel("mine")
        await ends_with(Cancelled, under_way)

    run(scenario())
    assert set(server.cancelled()) == {("big", "mine")}


def test_between_two_paintings_no_denoiser_works_on_a_request(small_first: SmallFirst) -> None:
    server = FakeServer(slow=SLOW)
    door = open_door(server, concurrency=1)

    async def scenario() -> None:
        between = asyncio.create_task(door.serve(circle("between", policy="small_first")))
        other = serving(door, "other")
        while "other" not in server.painting or not small_first.judged:  # which took its place
            await asyncio.sleep(0)
        assert small_first.judged == ["little"]
        assert door.variant_of("between") is None
        await door.cancel("between")
        await ends_with(Cancelled, between)
        server.finish("other")
        await other

    run(scenario())


def test_limits_of_the_second_variant_hold_too(small_first: SmallFirst) -> None:
    assert DEPLOYMENT.variants["big"].max_inference_steps == 50
    server = FakeServer()
    run(ends_with(InvalidArgument, open_door(server).serve(circle(policy="small_first", num_inference_steps=51))))
