"""Promises at the front door, with a large variant that is known to take long and a backlog that is real."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.front_door.fake_server import FakeServer, open_door, run
from underpaint.errors import Overloaded
from underpaint.front_door.door import FrontDoor
from underpaint.requests import GenerateRequest

STEP_S = 0.05


def circle(request_id: str, **wishes: Any) -> GenerateRequest:
    return GenerateRequest("a circle", request_id=request_id, **wishes)


def experienced(server: FakeServer) -> FrontDoor:
    """A door that has seen both variants take 50 ms a step: 1.25 s and 0.5 s for an image."""
    door = open_door(server)
    for variant in ("big", "little"):
        door._workload._steps_of(variant).append(STEP_S)
    return door


async def with_one_painting(server: FakeServer, request: GenerateRequest) -> Any:
    """What becomes of a request while a large image is being painted."""
    door = experienced(server)
    other = asyncio.ensure_future(door.serve(circle("other")))
    await server.until_painting(1)
    try:
        return await door.serve(request), door
    finally:
        server.finish("other")
        await other


def test_work_that_goes_first_makes_a_request_do_with_less() -> None:
    reply, door = run(with_one_painting(FakeServer(slow=frozenset({"big"})), circle("mine", slo_ms=2000)))
    assert (reply.outcome.variant, reply.outcome.downgrade) == ("little", "variant")
    assert door.tally.downgrades == {("variant",): 1}


def test_fewer_steps_are_said() -> None:
    reply, _ = run(with_one_painting(FakeServer(slow=frozenset({"big"})), circle("mine", slo_ms=1600)))
    assert (reply.outcome.downgrade, reply.outcome.num_inference_steps, reply.outcome.steps_run) == ("steps", 5, 5)


def test_one_that_cannot_be_done_is_refused_and_leaves_nothing_behind() -> None:
    async def scenario() -> None:
        server = FakeServer(slow=frozenset({"big"}))
        door = experienced(server)
        other = asyncio.ensure_future(door.serve(circle("other")))
        await server.until_painting(1)
        with pytest.raises(Overloaded, match=r"^slo_ms: 100 ms cannot be kept, .* retry after \d+\.\d s$"):
            await door.serve(circle("mine", slo_ms=100, service_class="standard"))
        assert (door.in_flight, door.tally.refusals) == (1, {("standard",): 1})
        server.finish("other")
        await other
        assert (await door.serve(circle("again", slo_ms=5000, variant="little"))).outcome.downgrade is None

    run(scenario())


def test_who_is_promised_nothing_waits() -> None:
    reply, _ = run(with_one_painting(FakeServer(slow=frozenset({"big"})), circle("mine", variant="little")))
    assert reply.outcome.downgrade is None
