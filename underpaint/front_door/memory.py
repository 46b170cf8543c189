"""What is remembered of a reply, after it has been sent: nobody waits for it, and nobody suffers if it fails.

Images wait here for each other, and those that wait are judged, embedded and inserted together: a call between models
costs more than an insert. Where a request waits for one of them, they go at once. What probably does not show what its
prompt says is not kept, or everyone who asks for the same later would get the same faults.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from underpaint.front_door.cache_client import CacheClient, Captured, Embeddings, Entry
from underpaint.front_door.complaints import Complaints
from underpaint.front_door.embedders import Embedders
from underpaint.front_door.scoring import Scoring
from underpaint.front_door.tally import Tally
from underpaint.front_door.underway import Underway

_WITHIN_S = 10.0  # for each embedding, and for the insert


@dataclass(frozen=True, eq=False)
class Keepsake:
    """An image, uint8 [H, W, 3], worth remembering, and what was captured on the way to it.

    ``text_embedding``: of its prompt, float32 [D], if that is known already. ``request_id``: whose image it is.
    ``least_confidence``: what the discriminator must give it, for it to be kept; 0 where it is not asked.
    """

    entry: Entry
    image: np.ndarray
    text_embedding: np.ndarray | None = None
    captured: Captured | None = None
    request_id: str = ""
    least_confidence: float = 0.0

    @property
    def form(self) -> tuple[tuple[int, ...], ...]:
        """The shapes of what it holds."""
        return self.image.shape, self.captured.latents.shape[1:] if self.captured else ()


class Memory:
    """A bounded queue in front of the discriminator, the image embedder and the cache."""

    def __init__(
        self,
        scoring: Scoring,
        embedders: Embedders,
        cache: CacheClient,
        tally: Tally,
        complaints: Complaints,
        underway: Underway,
        capacity: int = 64,
        together: int = 8,
        company_s: float = 0.25,
    ) -> None:
        """``capacity``: keepsakes that may wait; ``together``: how many make one insert at most; ``company_s``: how
        long fewer wait for others."""
        self._embedders, self._cache, self._tally, self._complaints = embedders, cache, tally, complaints
        self._scoring, self._underway = scoring, underway
        self._capacity, self._together, self._company_s = capacity, together, company_s
        self._waiting: deque[Keepsake] = deque()
        self._enough = asyncio.Event()
        self._worker: asyncio.Task[None] | None = None
        underway.on_wait = self._hurry

    def remember(self, keepsake: Keepsake) -> None:
        """Put it into the cache, in a while. What finds the queue full is not remembered."""
        if len(self._waiting) >= self._capacity:
            self._tally.remembered[("queue full",)] += 1
            self._complaints.about("memory", f"{self._capacity} images wait for the cache; this one is not remembered")
            self._underway.end(keepsake.request_id)
            return
        self._waiting.append(keepsake)
        if len(self._waiting) >= self._together or self._underway.is_awaited(keepsake.request_id):
            self._enough.set()
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work())

    async def drain(self, within_s: float) -> None:
        """Wait until all is remembered, or the time is over; what is left then is forgotten."""
        self._company_s = 0.0
        self._enough.set()
        if self._worker is not None:
            await asyncio.wait({self._worker}, timeout=within_s)
            self._worker.cancel()
        self._waiting.clear()

    def _hurry(self, request_id: str) -> None:
        """Somebody waits for this image, which may be here or still be painted."""
        if any(each.request_id == request_id for each in self._waiting):
            self._enough.set()

    async def _work(self) -> None:
        while self._waiting:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._company_s):
                    await self._enough.wait()
            keepsakes = self._next()
            try:
                worthy = await self._worthy(keepsakes)
                if worthy:
                    await self._store(worthy)
                self._tally.remembered[("kept",)] += len(worthy)
                self._tally.remembered[("poor",)] += len(keepsakes) - len(worthy)
            except Exception as error:  # their callers have the images; all that is lost is a chance to save work
                self._tally.remembered[("failed",)] += len(keepsakes)
                self._complaints.about("memory", str(error))
            finally:
                for each in keepsakes:
                    self._underway.end(each.request_id)

    def _next(self) -> list[Keepsake]:
        """Those that have waited longest and are alike, so that they make tensors."""
        keepsakes = [self._waiting.popleft()]
        while self._waiting and len(keepsakes) < self._together and self._waiting[0].form == keepsakes[0].form:
            keepsakes.append(self._waiting.popleft())
        if len(self._waiting) < self._together:
            self._enough.clear()
        return keepsakes

    async def _worthy(self, keepsakes: Sequence[Keepsake]) -> Sequence[Keepsake]:
        """Those that the discriminator gives chance enough; all, where it does not answer."""
        judged = [each for each in keepsakes if each.least_confidence]
        if not judged:
            return keepsakes
        prompts, images = [each.entry.prompt for each in judged], np.stack([each.image for each in judged])
        try:
            async with asyncio.timeout(_WITHIN_S):
                confidences = await self._scoring.confidences(prompts, images)
        except Exception as error:  # then it is as it would be without one
            self._complaints.about("memory", f"images were not judged: {error or type(error).__name__}")
            return keepsakes
        poor = {id(each) for each, given in zip(judged, confidences, strict=True) if given < each.least_confidence}
        return [each for each in keepsakes if id(each) not in poor]

    async def _store(self, keepsakes: Sequence[Keepsake]) -> None:
        texts = np.stack([await self._text_embedding(each) for each in keepsakes])
        images = np.stack([each.image for each in keepsakes])
        embeddings = Embeddings(await self._embedders.images(images, _WITHIN_S), texts)
        captured = [each.captured for each in keepsakes]
        await self._cache.insert([each.entry for each in keepsakes], images, embeddings, captured, _WITHIN_S)

    async def _text_embedding(self, keepsake: Keepsake) -> np.ndarray:
        known = keepsake.text_embedding
        return await self._embedders.text(keepsake.entry.prompt, _WITHIN_S) if known is None else known
