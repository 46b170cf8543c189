"""``generate``: one request, one answer, over HTTP, gRPC and ``/generate``."""

from __future__ import annotations

from typing import Any

from underpaint.triton.front_door_model import FrontDoorModel, read_request, tensors_of
from underpaint.triton.replies import answer
from underpaint.triton.tensors import Tensors


class TritonPythonModel(FrontDoorModel):
    """Not decoupled, so plain HTTP reaches it; answers later, so one process holds many requests."""

    async def _run(self, request: Any, sender: Any) -> None:
        wanted = read_request(request)
        reply = await self._door.serve(wanted, sender.is_cancelled)
        answer(sender, await tensors_of(reply, wanted.output_format))

    def _send(self, sender: Any, tensors: Tensors) -> None:
        answer(sender, tensors)
