"""Pictures that are being painted and will be kept: who asks for nearly the same waits until one is in the cache.

People repeat themselves within seconds, and a picture takes as long. Whoever waits is answered hardly later than if he
had been painted for in full, since what he waits for was begun before; and it is painted once instead of twice.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np


@dataclass(eq=False)
class _Coming:
    """``scopes``: in which it will be found; ``embedding``: of its prompt, float32 [D]; ``awaited``: by anybody."""

    request_id: str
    scopes: Sequence[str]
    embedding: np.ndarray
    awaited: bool = False
    since_s: float = field(default_factory=time.monotonic)
    settled: asyncio.Event = field(default_factory=asyncio.Event)


class Underway:
    """By request id. ``on_wait`` is called with that of a picture for which somebody begins to wait."""

    def __init__(self, forget_after_s: float) -> None:
        """``forget_after_s``: then it was begun, but something went wrong and nobody said that it has ended."""
        self._forget_after_s = forget_after_s
        self.on_wait: Callable[[str], None] = lambda request_id: None
        self._coming: dict[str, _Coming] = {}

    def begin(self, request_id: str, scopes: Sequence[str], embedding: np.ndarray) -> None:
        """It is being painted from now on, and will be put into the cache. Painted again, it is still the same."""
        self._coming.setdefault(request_id, _Coming(request_id, scopes, embedding))

    def end(self, request_id: str) -> None:
        """It is in the cache, or will never be. Nothing happens where it is not known."""
        coming = self._coming.pop(request_id, None)
        if coming is not None:
            coming.settled.set()

    def is_awaited(self, request_id: str) -> bool:
        """Whether anybody waits for it."""
        coming = self._coming.get(request_id)
        return coming is not None and coming.awaited

    async def wait(self, scope: str, embedding: np.ndarray, alike: float, within_s: float) -> bool:
        """Whether there was one in ``scope`` with a cosine of at least ``alike``, and it has ended ``within_s``."""
        nearest = self._nearest(scope, embedding)
        if nearest is None or float(nearest.embedding @ embedding) < alike or within_s <= 0:
            return False
        nearest.awaited = True
        self.on_wait(nearest.request_id)
        with suppress(TimeoutError):
            await asyncio.wait_for(nearest.settled.wait(), within_s)
        return nearest.settled.is_set()

    def _nearest(self, scope: str, embedding: np.ndarray) -> _Coming | None:
        begun_s = time.monotonic() - self._forget_after_s
        for request_id in [each for each, coming in self._coming.items() if coming.since_s < begun_s]:
            self.end(request_id)
        near = (coming for coming in self._coming.values() if scope in coming.scopes)
        return max(near, key=lambda coming: float(coming.embedding @ embedding), default=None)
