"""Talking to the denoisers directly: cancel, peek, and notice when one has died.

Cancelling a call of an ensemble reaches none of the models below it, and a process that was killed leaves its callers
waiting for ever. So the front door addresses the denoiser by request id, and feels its pulse while it owes an answer.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from underpaint.errors import NotFound, UnderpaintError
from underpaint.front_door.transport import Transport
from underpaint.releases import component

_PATIENCE_S = 2.0


@dataclass(frozen=True, eq=False)
class Glimpse:
    """How far a request is. ``latents``: float32 [1, C, h, w], its clean estimate; None before the first step."""

    step: int
    num_inference_steps: int
    latents: np.ndarray | None


class Denoisers:
    """The denoisers of all variants, by the name of the variant, or of one of its versions (``Job.painter``)."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def cancel(self, variant: str, request_id: str) -> bool:
        """Tell the denoiser to drop a request; whether it held it."""
        try:
            await self._ask(variant, "cancel", ["progress"], request_id)
        except NotFound:
            return False
        return True

    async def peek(self, variant: str, request_id: str) -> Glimpse | None:
        """How far a request is, or None where the denoiser does not hold it (yet, or any more)."""
        try:
            outputs = await self._ask(variant, "peek", ["progress", "latents"], request_id)
        except NotFound:
            return None
        step, total = (int(n) for n in outputs["progress"].reshape(-1))
        return Glimpse(step, total, outputs.get("latents"))

    async def alive_since(self, variant: str) -> int | None:
        """When the denoiser's process started (monotonic nanoseconds), or None if it does not answer."""
        try:
            outputs = await self._ask(variant, "heartbeat", ["alive_since_ns"], "heartbeat")
        except UnderpaintError:
            return None
        return int(outputs["alive_since_ns"].item())

    async def preview(self, variant: str, latents: np.ndarray, version: int = 1) -> np.ndarray:
        """Latents as pixels, uint8 [H, W, 3]."""
        decoder = component(variant, "vae_decoder", version)
        outputs = await self._transport.infer(decoder, {"latents": latents}, ["image"], _PATIENCE_S)
        return outputs["image"][0]

    async def _ask(self, variant: str, op: str, outputs: list[str], request_id: str) -> dict[str, np.ndarray]:
        inputs = {"op": np.array([[op.encode()]], dtype=np.object_)}
        answer = await self._transport.infer(
            f"{variant}_denoiser", inputs, outputs, _PATIENCE_S, {"request_id": request_id}
        )
        return dict(answer)
