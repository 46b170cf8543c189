"""Now and then, what a hit would have been without the cache: whether thresholds still keep what calibration promised.

A calibration speaks for the requests that it was measured on; what people ask for drifts. So a share of the hits
(``shadow_share``) is painted once more in full, after the caller has the image, and both are held against the prompt by
the embedders. That is no judge of single images, but over many it tells when reuse has begun to cost.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

import numpy as np

from underpaint.front_door.complaints import Complaints
from underpaint.front_door.embedders import Embedders
from underpaint.front_door.tally import Tally
from underpaint.requests import GenerateRequest

_WITHIN_S = 10.0  # for each embedding


@dataclass(frozen=True, eq=False)
class Hit:
    """An image, uint8 [H, W, 3], that ``policy`` made from the cache, for a request whose seed is known."""

    request: GenerateRequest
    policy: str
    image: np.ndarray


class Shadow:
    """Paints one at a time; hits that come meanwhile are let go, so that it never becomes a load of its own."""

    def __init__(
        self,
        paint: Callable[[GenerateRequest], Awaitable[np.ndarray]],
        embedders: Embedders,
        tally: Tally,
        complaints: Complaints,
    ) -> None:
        """``paint`` serves a request; its image, uint8 [H, W, 3]."""
        self._paint, self._embedders, self._tally, self._complaints = paint, embedders, tally, complaints
        self._casting: asyncio.Task[None] | None = None

    def cast(self, hit: Hit) -> None:
        """In the background."""
        if self._casting is None or self._casting.done():
            self._casting = asyncio.create_task(self._cast(hit))

    async def _cast(self, hit: Hit) -> None:
        try:
            full = await self._paint(in_full(hit.request))
            text = await self._embedders.text(hit.request.prompt, _WITHIN_S)
            agreement = await self._embedders.images(np.stack([hit.image, full]), _WITHIN_S) @ text
        except Exception as error:  # nobody waits for it
            self._complaints.about("shadow", str(error))
            return
        self._tally.shadows[hit.policy,] += 1
        for start, cosine in zip(("cache", "noise"), agreement.tolist(), strict=True):
            self._tally.shadow_agreement[hit.policy, start] += round(cosine, 4)


def in_full(request: GenerateRequest) -> GenerateRequest:
    """The same image without the cache; whoever promised anything has it already."""
    return replace(
        request, policy="vanilla", cache="off", request_id=None, deadline_ms=None, slo_ms=None, output_format="none"
    )
