"""So many at once, and of those who wait the most urgent first."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Turnstile:
    """Like a semaphore, but whoever is due first goes first, not whoever came first."""

    def __init__(self, places: int) -> None:
        self._free = places
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []
        self._order = itertools.count()  # among equals, first come, first served

    @asynccontextmanager
    async def place(self, due_ns: int) -> AsyncIterator[None]:
        """Hold a place for the time of the ``with`` block."""
        await self._enter(due_ns)
        try:
            yield
        finally:
            self._leave()

    async def _enter(self, due_ns: int) -> None:
        if self._free:
            self._free -= 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (due_ns, next(self._order), turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # its turn had come just then: pass it on
                self._leave()
            raise

    def _leave(self) -> None:
        while self._waiting:
            _, _, turn = heapq.heappop(self._waiting)
            if not turn.done():  # those who gave up are skipped
                turn.set_result(None)
                return
        self._free += 1
