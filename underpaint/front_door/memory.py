"""What is remembered of a reply, after it has been sent: nobody waits for it, and nobody suffers if it fails."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass

import numpy as np

from underpaint.front_door.cache_client import CacheClient, Captured, Embeddings, Entry
from underpaint.front_door.complaints import Complaints
from underpaint.front_door.embedders import Embedders
from underpaint.front_door.tally import Tally

_WITHIN_S = 10.0  # for each embedding, and for the insert


@dataclass(frozen=True, eq=False)
class Keepsake:
    """An image, uint8 [H, W, 3], worth remembering, and what was captured on the way to it.

    ``text_embedding``: of its prompt, float32 [D], if that is known already.
    """

    entry: Entry
    image: np.ndarray
    text_embedding: np.ndarray | None = None
    captured: Captured | None = None


class Memory:
    """A bounded queue in front of the image embedder and the cache."""

    def __init__(
        self,
        embedders: Embedders,
        cache: CacheClient,
        tally: Tally,
        complaints: Complaints,
        capacity: int = 64,
        at_once: int = 2,
    ) -> None:
        """``capacity``: keepsakes that may wait; ``at_once``: inserts under way."""
        self._embedders, self._cache, self._tally, self._complaints = embedders, cache, tally, complaints
        self._capacity, self._at_once = capacity, at_once
        self._waiting: deque[Keepsake] = deque()
        self._workers: set[asyncio.Task[None]] = set()

    def remember(self, keepsake: Keepsake) -> None:
        """Put it into the cache, in a while. What finds the queue full is not remembered."""
        if len(self._waiting) >= self._capacity:
            self._tally.remembered[("queue full",)] += 1
            self._complaints.about("memory", f"{self._capacity} images wait for the cache; this one is not remembered")
            return
        self._waiting.append(keepsake)
        if len(self._workers) < self._at_once:
            worker = asyncio.create_task(self._work())
            self._workers.add(worker)
            worker.add_done_callback(self._workers.discard)

    async def drain(self, within_s: float) -> None:
        """Wait until all is remembered, or the time is over; what is left then is forgotten."""
        workers = set(self._workers)
        if workers:
            await asyncio.wait(workers, timeout=within_s)
        for worker in workers:
            worker.cancel()
        self._waiting.clear()

    async def _work(self) -> None:
        while self._waiting:
            keepsake = self._waiting.popleft()
            try:
                await self._store(keepsake)
                self._tally.remembered[("kept",)] += 1
            except Exception as error:  # its caller has the image; all that is lost is a chance to save work
                self._tally.remembered[("failed",)] += 1
                self._complaints.about("memory", str(error))

    async def _store(self, keepsake: Keepsake) -> None:
        text = keepsake.text_embedding
        if text is None:
            text = await self._embedders.text(keepsake.entry.prompt, _WITHIN_S)
        image = await self._embedders.image(keepsake.image, _WITHIN_S)
        await self._cache.insert(keepsake.entry, keepsake.image, Embeddings(image, text), keepsake.captured, _WITHIN_S)
