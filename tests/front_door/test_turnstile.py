"""Who paints next."""

from __future__ import annotations

import asyncio

from underpaint.front_door.turnstile import Turnstile


async def visit(
    turnstile: Turnstile, due_ns: int, name: str, seen: list[str], hold: asyncio.Event | None = None
) -> None:
    async with turnstile.place(due_ns):
        seen.append(name)
        if hold is not None:
            await hold.wait()


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def test_the_most_urgent_of_those_who_wait_goes_first() -> None:
    async def scenario() -> list[str]:
        turnstile, seen, hold = Turnstile(1), [], asyncio.Event()
        first = asyncio.create_task(visit(turnstile, 9, "first", seen, hold))
        await settle()
        rest = [asyncio.create_task(visit(turnstile, due, name, seen)) for due, name in ((5, "b"), (3, "a"), (5, "c"))]
        await settle()
        assert seen == ["first"]
        hold.set()
        await asyncio.gather(first, *rest)
        return seen

    assert asyncio.run(scenario()) == ["first", "a", "b", "c"]


def test_places_are_neither_lost_nor_made_when_somebody_gives_up() -> None:
    async def scenario() -> None:
        turnstile, seen, hold = Turnstile(1), [], asyncio.Event()
        holder = asyncio.create_task(visit(turnstile, 0, "holder", seen, hold))
        await settle()
        gives_up = asyncio.create_task(visit(turnstile, 1, "gives up", seen))
        waits = asyncio.create_task(visit(turnstile, 2, "waits", seen, hold))
        await settle()
        gives_up.cancel()
        await settle()
        hold.set()
        await asyncio.gather(holder, waits)
        # Cancelled in the very moment in which its turn has come.
        hold.clear()
        holder = asyncio.create_task(visit(turnstile, 0, "holder", seen, hold))
        await settle()
        unlucky = asyncio.create_task(visit(turnstile, 1, "unlucky", seen))
        await settle()
        hold.set()
        await asyncio.sleep(0)
        unlucky.cancel()
        await asyncio.gather(holder, unlucky, return_exceptions=True)
        await asyncio.wait_for(visit(turnstile, 0, "last", seen), 1)
        assert seen[-1] == "last" and "gives up" not in seen

    asyncio.run(scenario())
