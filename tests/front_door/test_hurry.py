"""Nobody waits for long, and a model that hangs is not asked for ever."""

from __future__ import annotations

import asyncio

import pytest

from tests.front_door.fake_server import run
from underpaint.errors import NotFound
from underpaint.front_door.hurry import Hurry, TooSlow


class Model:
    """Answers once it is woken."""

    def __init__(self) -> None:
        self.awake, self.asked = asyncio.Event(), 0

    async def __call__(self) -> str:
        self.asked += 1
        await self.awake.wait()
        return "here"


def test_an_answer_in_time_is_passed_on() -> None:
    async def scenario() -> str:
        model = Model()
        asyncio.get_running_loop().call_later(0.01, model.awake.set)
        return await Hurry("cache", 1).call(model, 5.0)

    assert run(scenario()) == "here"


def test_an_error_in_time_is_passed_on() -> None:
    async def fails() -> None:
        raise NotFound("entry 3 has gone")

    with pytest.raises(NotFound, match="entry 3"):
        run(Hurry("cache", 1).call(fails, 5.0))


def test_what_hangs_is_asked_as_often_as_there_are_turns() -> None:
    async def scenario() -> None:
        model, hurry = Model(), Hurry("cache", 2)
        for _ in range(5):
            with pytest.raises(TooSlow, match="cache did not answer within 10 ms"):
                await hurry.call(model, 0.01)
        assert model.asked == 2
        model.awake.set()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert await hurry.call(model, 5.0) == "here"

    run(scenario())


def test_waiting_for_a_turn_counts_too() -> None:
    async def scenario() -> None:
        model, hurry = Model(), Hurry("cache", 1)
        patient = asyncio.create_task(hurry.call(model, 5.0))
        await asyncio.sleep(0)
        with pytest.raises(TooSlow):
            await hurry.call(model, 0.01)
        assert model.asked == 1
        model.awake.set()
        assert await patient == "here"
        assert await hurry.call(model, 5.0) == "here"

    run(scenario())


def test_who_is_cancelled_leaves_the_call_to_its_turn() -> None:
    async def scenario() -> None:
        model, hurry = Model(), Hurry("cache", 1)
        caller = asyncio.create_task(hurry.call(model, 5.0))
        await asyncio.sleep(0)
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller
        with pytest.raises(TooSlow):
            await hurry.call(model, 0.01)
        model.awake.set()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert await hurry.call(model, 5.0) == "here"

    run(scenario())


def test_an_error_that_comes_too_late_is_nobodys() -> None:
    async def scenario() -> None:
        woken = asyncio.Event()

        async def fails() -> None:
            await woken.wait()
            raise NotFound("entry 3 has gone")

        with pytest.raises(TooSlow):
            await Hurry("cache", 1).call(fails, 0.01)
        woken.set()
        await asyncio.sleep(0.01)

    run(scenario())
