"""``generate_stream``: the same request with its progress, and with previews of the image while it appears.

Decoupled: gRPC streams and Triton's ``/generate_stream`` (server-sent events). Every response but the last carries
``progress`` and, once there is something to see, a preview in the caller's ``output_format``; the last one is what
``generate`` answers.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from underpaint.errors import UnderpaintError
from underpaint.front_door.denoisers import Glimpse
from underpaint.front_door.reply import Reply
from underpaint.front_door.transport import Tensors
from underpaint.requests import GenerateRequest
from underpaint.triton.front_door_model import FrontDoorModel, png_tensor, read_request, tensors_of
from underpaint.triton.tensors import to_triton

_LOOK_EVERY_S = 0.05
_PREVIEW_EVERY_S = 0.25  # decoding one takes the VAE from those whose image is done


class TritonPythonModel(FrontDoorModel):
    """Peeks at the denoiser while the request is under way."""

    async def _run(self, request: Any, sender: Any) -> None:
        wanted = read_request(request)
        wanted = replace(wanted, request_id=wanted.request_id or uuid.uuid4().hex)
        serving = asyncio.ensure_future(self._door.serve(wanted, sender.is_cancelled))
        try:
            await self._show_progress(serving, sender, wanted)
            reply = await serving
        finally:
            serving.cancel()
        steps = reply.outcome.num_inference_steps
        self._send(sender, {**await tensors_of(reply, wanted.output_format), "progress": _progress(steps, steps)})
        self._door.remember(reply)

    async def _show_progress(self, serving: asyncio.Future[Reply], sender: Any, wanted: GenerateRequest) -> None:
        request_id = str(wanted.request_id)
        shown, preview_due = -1, 0.0
        while not (await asyncio.wait({serving}, timeout=_LOOK_EVERY_S))[0]:
            variant = self._door.variant_of(request_id)
            if variant is None:
                continue
            with suppress(UnderpaintError):  # a missed glimpse is no reason to lose the image
                glimpse = await self._door.denoisers.peek(variant, request_id)
                if glimpse is not None and glimpse.step > shown and not serving.done():
                    shown = glimpse.step
                    preview = wanted.previews and time.monotonic() >= preview_due
                    preview_due = time.monotonic() + _PREVIEW_EVERY_S if preview else preview_due
                    output_format = wanted.output_format if preview else "none"
                    self._respond(sender, await self._frame(variant, request_id, glimpse, output_format))

    async def _frame(
        self, variant: str, request_id: str, glimpse: Glimpse, output_format: str
    ) -> dict[str, np.ndarray]:
        progress = {"progress": _progress(glimpse.step, glimpse.num_inference_steps)}
        if glimpse.latents is None or output_format == "none":
            return progress
        image = await self._door.preview(variant, request_id, glimpse.latents)
        if output_format == "png":
            return {**progress, "png": await png_tensor(image, {"step": glimpse.step})}
        return {**progress, "image": image}

    def _respond(self, sender: Any, tensors: Tensors) -> None:
        sender.send(pb_utils.InferenceResponse(output_tensors=to_triton(tensors)))

    def _send(self, sender: Any, tensors: Tensors) -> None:
        self._respond(sender, tensors)
        sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)


def _progress(step: int, num_inference_steps: int) -> np.ndarray:
    return np.array([step, num_inference_steps], np.int32)
