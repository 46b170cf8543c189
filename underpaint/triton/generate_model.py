"""``generate``: one request, one answer, over HTTP, gRPC and ``/generate``."""

from __future__ import annotations

from typing import Any

from underpaint.errors import NotFound, UnderpaintError
from underpaint.front_door.transport import Tensors
from underpaint.triton.front_door_model import FrontDoorModel, read_request, tensors_of
from underpaint.triton.replies import answer
from underpaint.triton.tensors import strings


class TritonPythonModel(FrontDoorModel):
    """Not decoupled, so plain HTTP reaches it; answers later, so one process holds many requests."""

    async def _run(self, request: Any, sender: Any) -> None:
        wanted = read_request(request)
        reply = await self._door.serve(wanted, sender.is_cancelled)
        answer(sender, await tensors_of(reply, wanted.output_format))
        self._door.remember(reply)

    async def _withdraw(self, request_id: str) -> None:
        """Cancel what came through this door, or else through the other, where it may still wait for its turn."""
        try:
            await super()._withdraw(request_id)
        except NotFound as unknown:
            inputs, parameters = {"op": strings("cancel")}, {"request_id": request_id}
            try:
                await self._transport.infer("generate_stream", inputs, ["outcome"], 5.0, parameters, decoupled=True)
            except UnderpaintError:
                raise unknown from None

    def _send(self, sender: Any, tensors: Tensors) -> None:
        answer(sender, tensors)
