"""What a plan starts from, fetched from the cache."""

from __future__ import annotations

import time

import numpy as np

from underpaint.deployment import Sampling
from underpaint.errors import NotFound
from underpaint.evidence import Absence, Miss
from underpaint.front_door.cache_client import CacheClient
from underpaint.front_door.complaints import Complaints
from underpaint.front_door.costs import Costs
from underpaint.front_door.gathering import Patience, absence_after
from underpaint.front_door.registry import Visit
from underpaint.policies import CachedImage, Finished, Noise, Plan
from underpaint.policies.plan import Reused


class SourceLost(Exception):
    """A plan cannot start from what it wanted to; another one can be made without it."""

    def __init__(self, absence: Absence) -> None:
        super().__init__(absence)
        self.absence = absence


class Sources:
    """Images and latents by the start that needs them."""

    def __init__(self, cache: CacheClient, costs: Costs, patience: Patience, complaints: Complaints) -> None:
        self._cache, self._costs, self._patience, self._complaints = cache, costs, patience, complaints

    async def fetch(self, plan: Plan, sampling: Sampling, autoencoder: str, visit: Visit) -> np.ndarray | None:
        """What ``plan`` starts from: an image, uint8 [H, W, 3], or latents, float32 [C, h, w]; None for noise.

        ``autoencoder``: the painter's, whose finished latents do as well as an image that is to be refined.

        Raises:
            SourceLost: it has been evicted, did not come in time, or cannot be painted from.
        """
        start = plan.start
        if isinstance(start, Noise):
            return None
        within_s = self._patience.when_painting_takes(self._costs.painting_s(plan.variant, sampling)).fetch_s
        try:
            with visit.timed("fetch"):
                source = await self._fetch(start, autoencoder, within_s)
        except NotFound as evicted:
            raise SourceLost(Absence(Miss.GONE)) from evicted
        except Exception as error:  # whatever it is, the request can be served without the cache
            self._complaints.about("cache", str(error))
            raise SourceLost(absence_after(error)) from error
        if not _sound(source, sampling):
            form = f"{source.dtype} {list(source.shape)}"
            self._complaints.about("cache", f"entry {start.entry.entry_id} cannot be painted from ({form})")
            raise SourceLost(Absence(Miss.BROKEN, f"entry {start.entry.entry_id} is broken"))
        return source

    async def _fetch(self, start: Reused, autoencoder: str, within_s: float) -> np.ndarray:
        entry_id = start.entry.entry_id
        if isinstance(start, Finished):
            return await self._cache.start(entry_id, "", within_s)
        if isinstance(start, CachedImage):
            return await self._cache.start(entry_id, autoencoder, within_s)
        if self._cache.has_latents(entry_id, start.step):
            return await self._cache.latents(entry_id, start.step, within_s)
        started_s = time.monotonic()
        try:
            return await self._cache.latents(entry_id, start.step, within_s)
        finally:
            self._costs.fetch((time.monotonic() - started_s) * 1e3)


def _sound(source: np.ndarray, sampling: Sampling) -> bool:
    """Whether the tensor is what it should be, as far as that can be told here."""
    if source.dtype == np.uint8:
        return source.shape == (sampling.height, sampling.width, 3)
    return source.dtype == np.float32 and source.ndim == 3 and bool(np.isfinite(source).all())
