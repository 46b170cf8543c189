"""The pulse of every denoiser that owes an answer: whoever waits for a dead one is told so."""

from __future__ import annotations

import asyncio
import time

from underpaint.front_door.denoisers import Denoisers
from underpaint.front_door.registry import Registry


class Pulse:
    """A denoiser that is dead does not answer. One that has been replaced answers, but knows nothing of what its
    predecessor was sent."""

    def __init__(self, denoisers: Denoisers, registry: Registry, every_s: float, missed: int) -> None:
        """Without a beat ``missed`` times in a row, a denoiser counts as dead."""
        self._denoisers, self._registry = denoisers, registry
        self._every_s, self._missed_to_be_dead = every_s, missed
        self._missed: dict[str, int] = {}

    async def feel(self) -> None:
        """Runs for as long as the door is open."""
        while True:
            await asyncio.sleep(self._every_s)
            at_work = self._registry.variants_at_work()
            self._missed = {variant: self._missed.get(variant, 0) for variant in at_work}
            beats = await asyncio.gather(*(self._denoisers.alive_since(variant) for variant in at_work))
            for variant, alive_since_ns in zip(at_work, beats, strict=True):
                self._judge(variant, alive_since_ns)

    def _judge(self, variant: str, alive_since_ns: int | None) -> None:
        if alive_since_ns is not None:
            self._missed[variant] = 0
            self._registry.strand(variant, before_ns=alive_since_ns)
            return
        self._missed[variant] += 1
        if self._missed[variant] >= self._missed_to_be_dead:
            self._registry.strand(variant, before_ns=time.monotonic_ns())
