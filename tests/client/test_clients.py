"""Both clients against a fake server: what they ask, what they hand out, when they let go."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing

import pytest

from tests.client.fake_transport import FakeAsyncTransport, FakeTransport, a_picture, progress
from underpaint.client import AsyncClient, Client, Picture
from underpaint.errors import InvalidArgument, Unavailable

THREE = ({**progress(1, 3)}, {**progress(2, 3)}, {**progress(3, 3), **a_picture()})


def run_async(transport: FakeTransport, use: Callable[[AsyncClient], Awaitable[None]], **options: float) -> None:
    async def main() -> None:
        async with AsyncClient(transport=FakeAsyncTransport(transport), **options) as client:
            await use(client)

    asyncio.run(main())


def test_generate() -> None:
    transport = FakeTransport([a_picture(seed=5)])
    with Client(transport=transport, timeout_s=9.0) as client:
        picture = client.generate("a red circle", seed=5)
    assert picture.outcome.seed == 5 and picture.image.shape == (8, 8, 3)
    assert transport.calls[0].model == "generate" and transport.timeouts == [9.0] and transport.closed


def test_generate_async() -> None:
    transport = FakeTransport([a_picture(seed=5)])

    async def use(client: AsyncClient) -> None:
        assert (await client.generate("a red circle", seed=5)).outcome.seed == 5

    run_async(transport, use, timeout_s=9.0)
    assert transport.calls[0].model == "generate" and transport.timeouts == [9.0] and transport.closed


def test_stream() -> None:
    transport = FakeTransport(THREE)
    *steps, last = Client(transport=transport).stream("a red circle")
    assert [step.step for step in steps] == [1, 2] and isinstance(last, Picture)
    assert transport.calls[0].model == "generate_stream" and transport.streams_closed == 1


def test_stream_async() -> None:
    transport = FakeTransport(THREE)

    async def use(client: AsyncClient) -> None:
        *steps, last = [event async for event in client.stream("a red circle")]
        assert [step.step for step in steps] == [1, 2] and isinstance(last, Picture)

    run_async(transport, use)
    assert transport.calls[0].model == "generate_stream" and transport.streams_closed


def test_whoever_leaves_with_the_picture_cancels_nothing() -> None:
    transport = FakeTransport(THREE)
    events = Client(transport=transport).stream("a red circle")
    next(event for event in events if isinstance(event, Picture))
    events.close()
    assert transport.streams_ended == 1


def test_whoever_leaves_with_the_picture_cancels_nothing_async() -> None:
    transport = FakeTransport(THREE)

    async def use(client: AsyncClient) -> None:
        async with aclosing(client.stream("a red circle")) as events:
            async for event in events:
                if isinstance(event, Picture):
                    break

    run_async(transport, use)
    assert transport.streams_ended == 1


def test_leaving_a_stream_early_closes_it() -> None:
    transport = FakeTransport(THREE)
    events = Client(transport=transport).stream("a red circle")
    next(events)
    events.close()
    assert transport.streams_closed == 1


def test_leaving_a_stream_early_closes_it_async() -> None:
    transport = FakeTransport(THREE)

    async def use(client: AsyncClient) -> None:
        async with aclosing(client.stream("a red circle")) as events:
            await anext(events)

    run_async(transport, use)
    assert transport.streams_closed


def test_a_stream_that_ends_without_its_picture() -> None:
    with pytest.raises(Unavailable, match="before the picture"):
        list(Client(transport=FakeTransport(THREE[:2])).stream("a red circle"))


def test_mistakes_are_raised_where_they_are_made() -> None:
    """Not when a stream is first read from."""
    transport = FakeTransport(THREE)
    with pytest.raises(InvalidArgument, match="seed"):
        Client(transport=transport).stream("a red circle", seed=-1)
    assert not transport.calls


def test_cancel() -> None:
    transport = FakeTransport([{}])
    Client(transport=transport).cancel("me")
    assert transport.calls[0].parameters == {"request_id": "me"}


def test_wait_ready() -> None:
    Client(transport=FakeTransport(ready_after=2)).wait_ready(5.0)
    with pytest.raises(Unavailable, match="localhost:1 within 0 s"):
        Client(transport=FakeTransport(ready_after=1000)).wait_ready(0.0)


def test_wait_ready_async() -> None:
    async def use(client: AsyncClient) -> None:
        await client.wait_ready(5.0)

    run_async(FakeTransport(ready_after=2), use)
