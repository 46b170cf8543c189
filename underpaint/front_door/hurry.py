"""Calls that can only help: nobody waits for them longer than they are worth.

The call itself goes on, since Triton cannot take it back, and keeps its turn until it ends. So a model that hangs is
asked as often as there are turns, and then left alone until it answers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from underpaint.errors import Unavailable

Answer = TypeVar("Answer")


class TooSlow(Unavailable):
    """No answer in time."""


class Hurry:
    """So many calls at once, overdue ones included."""

    def __init__(self, what: str, turns: int) -> None:
        """``what`` is called, for error messages."""
        self._what, self._turns = what, turns
        self._free = asyncio.Semaphore(turns)
        self._overdue: set[asyncio.Task[Any]] = set()

    async def call(self, work: Callable[[], Coroutine[Any, Any, Answer]], within_s: float) -> Answer:
        """What ``work`` gives, if it does so in time.

        Raises:
            TooSlow: it does not, or every turn is taken by calls that are overdue.
        """
        late = TooSlow(f"{self._what} did not answer within {1000 * within_s:.0f} ms")
        if len(self._overdue) == self._turns:
            raise late
        due_s = asyncio.get_running_loop().time() + within_s
        await self._turn(due_s, late)
        task = asyncio.ensure_future(work())
        task.add_done_callback(self._ended)
        try:
            await asyncio.wait({task}, timeout=due_s - asyncio.get_running_loop().time())
        finally:
            if not task.done():
                self._overdue.add(task)
        if not task.done():
            raise late
        return task.result()

    async def _turn(self, due_s: float, late: TooSlow) -> None:
        """Take a turn, or raise ``late`` when it is due."""
        if not self._free.locked():
            await self._free.acquire()  # at once
            return
        try:
            async with asyncio.timeout_at(due_s):
                await self._free.acquire()
        except TimeoutError:
            raise late from None

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._free.release()
        self._overdue.discard(task)
        if not task.cancelled():
            task.exception()  # of an overdue one nobody else asks for it
