"""Waiting for work to be done, but no longer than the caller, the deadline and the denoiser last."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from contextlib import suppress
from typing import TypeVar

from underpaint.errors import Cancelled, DeadlineExceeded, Unavailable, UnderpaintError
from underpaint.front_door.denoisers import Denoisers
from underpaint.front_door.pipelines import Errand
from underpaint.front_door.registry import Visit

Answer = TypeVar("Answer")
_GRACE_S = 1.0


class Attendant:
    """Looks after requests while others work on them."""

    def __init__(self, denoisers: Denoisers, timeout_s: float, look_every_s: float) -> None:
        """``timeout_s``: how long any request may take."""
        self._denoisers, self._timeout_s, self._look_every_s = denoisers, timeout_s, look_every_s

    async def attend(self, work: Coroutine[None, None, Answer], visit: Visit) -> Answer:
        """The result of ``work``.

        Raises:
            Cancelled, DeadlineExceeded, Unavailable: there is no point in waiting any longer.
        """
        task = asyncio.ensure_future(work)
        try:
            while not task.done():
                await asyncio.wait({task}, timeout=self._look_every_s)
                if not task.done():
                    await self._check(visit)
        except BaseException:
            task.cancel()
            raise
        return task.result()

    def errand(self, visit: Visit, company: int) -> Errand:
        """Until when this may take. The denoiser is told, so that it does not paint on for nobody."""
        latest_ns = time.monotonic_ns() + int(self._timeout_s * 1e9)
        deadline_ns = latest_ns if visit.deadline_ns is None else min(visit.deadline_ns, latest_ns)
        left_s = max(deadline_ns - time.monotonic_ns(), 0) / 1e9
        # The denoiser ends a request at its deadline by itself; the timeout is for the case that it cannot.
        return Errand(visit.request_id, visit.arrived_ns, deadline_ns, left_s + _GRACE_S, company)

    async def _check(self, visit: Visit) -> None:
        """Raise if there is no point in waiting any longer."""
        left = visit.time_left_s()
        if visit.stranded:
            raise Unavailable(f"{visit.variant}_denoiser stopped answering and is being restarted; try again")
        if visit.cancelled() or (left is not None and left < -self._look_every_s):
            variant = visit.variant
            if variant is not None:
                with suppress(UnderpaintError):  # the caller's own reason comes first
                    await self._denoisers.cancel(variant, visit.request_id)
            if visit.cancelled():
                raise Cancelled(f"request {visit.request_id} was cancelled")
            raise DeadlineExceeded(f"deadline passed before {variant or 'any variant'} was done")
