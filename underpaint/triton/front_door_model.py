"""What ``generate`` and ``generate_stream`` share: an event loop in a thread, and requests in and out of Triton."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from underpaint.addons.hashes import AddonHashes
from underpaint.addons.location import lora_sources
from underpaint.cache.location import default_store
from underpaint.errors import InvalidArgument, Unavailable
from underpaint.front_door.door import FrontDoor
from underpaint.front_door.reply import Reply
from underpaint.front_door.traffic_files import TrafficFiles
from underpaint.front_door.transport import Tensors
from underpaint.images import to_base64, to_png
from underpaint.requests import GenerateRequest, input_fields
from underpaint.triton.bls import BlsTransport
from underpaint.triton.door_metrics import DoorMetrics
from underpaint.triton.model_args import ModelArgs
from underpaint.triton.replies import refuse
from underpaint.triton.tensors import inputs_of, parameters_of, scalar, strings, text
from underpaint.triton.tokenization import readers_of

_INPUTS = frozenset(f.name for f in input_fields())
_IMAGES = frozenset(f.name for f in input_fields() if "dims" in f.metadata)
# What Triton's own endpoints put among the parameters of a request.
_TRITONS_OWN = frozenset(
    {"id", "binary_data_output", "sequence_id", "sequence_start", "sequence_end", "priority", "timeout"}
)
# More than the door's concurrency, since calls to a process that died are lost with their threads.
_MAX_CALLS = 56
_HOUSEKEEPING_EVERY_S = 1.0
_DRAIN_S = 3.0  # at unload, for what is still to be remembered


class FrontDoorModel:
    """A Python model whose requests are coroutines; subclasses say how they are answered."""

    def initialize(self, args: Mapping[str, str]) -> None:
        model = ModelArgs.of(args)
        self._transport = BlsTransport(_MAX_CALLS)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="front-door", daemon=True)
        self._thread.start()
        self._repository = model.folder.parents[1]
        self._files = TrafficFiles(model.folder, default_store())
        self._door = asyncio.run_coroutine_threadsafe(self._open(), self._loop).result()
        self._metrics = DoorMetrics(model.name, self._door.tally)
        asyncio.run_coroutine_threadsafe(self._door.watch(), self._loop)
        asyncio.run_coroutine_threadsafe(self._keep_house(), self._loop)
        self._operations: dict[str, Callable[[Any, Any], Coroutine[Any, Any, None]]] = {
            "run": self._run,
            "cancel": self._cancel,
            "heartbeat": self._heartbeat,
        }

    def execute(self, requests: Sequence[Any]) -> None:
        for request in requests:
            sender = request.get_response_sender()
            asyncio.run_coroutine_threadsafe(self._guarded(request, sender), self._loop)

    def finalize(self) -> None:
        with suppress(TimeoutError):
            asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(timeout=_DRAIN_S + 5.0)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=2.0)
        self._transport.close()
        self._metrics.close()

    async def _open(self) -> FrontDoor:
        traffic = self._files.read()
        settings = traffic.stable.settings
        if settings.uncalibrated:
            log_warning(f"policies that reuse what was painted find nothing: {settings.uncalibrated}")
        if settings.unscored:
            log_warning(f"cascades do what they can: {settings.unscored}")
        deployment, hashes = traffic.stable.deployment, AddonHashes(self._repository, lora_sources(self._repository))
        readers = readers_of(self._repository, deployment.family)
        door = FrontDoor(deployment, self._transport, readers, settings=settings, log=log_warning, hashes=hashes)
        door.adopt(traffic)
        return door

    async def _keep_house(self) -> None:
        """Once a second: metrics out, settings in."""
        while True:
            await asyncio.sleep(_HOUSEKEEPING_EVERY_S)
            self._metrics.send(self._door.in_flight)
            if self._files.changed():
                self._adopt_files()

    def _adopt_files(self) -> None:
        try:
            traffic = self._files.read()
        except (InvalidArgument, OSError) as error:
            return log_warning(f"settings stay as they were: {error}")
        self._door.adopt(traffic)
        for release in traffic.releases:
            why = release.settings.uncalibrated
            log_info(f"settings of version {release.version} were read again{f': {why}' if why else ''}")

    async def _close(self) -> None:
        await self._door.drain(_DRAIN_S)
        await _cancel_all()

    async def _guarded(self, request: Any, sender: Any) -> None:
        try:
            op = text(inputs_of(request, "op"), "op", "run")
            if op not in self._operations:
                raise InvalidArgument.of("op", op, ", ".join(self._operations))
            await self._operations[op](request, sender)
        except asyncio.CancelledError:
            refuse(sender, Unavailable("the server is shutting down"))
            raise
        except Exception as error:
            refuse(sender, error)

    async def _run(self, request: Any, sender: Any) -> None:
        raise NotImplementedError

    async def _cancel(self, request: Any, sender: Any) -> None:
        request_id = str(parameters_of(request).get("request_id") or request.request_id())
        if not request_id:
            raise InvalidArgument.of("request_id", request_id, "the id of the request that is to be cancelled")
        await self._withdraw(request_id)
        self._send(sender, {"outcome": strings(json.dumps({"cancelled": request_id}))})

    async def _withdraw(self, request_id: str) -> None:
        await self._door.cancel(request_id)

    async def _heartbeat(self, request: Any, sender: Any) -> None:
        if self._transport.exhausted:
            return  # silence is what a supervisor understands: only a new process gets the threads back
        traffic = self._door.traffic
        told = {
            "in_flight": self._door.in_flight,
            "in_flight_by_release": self._door.in_flight_by_release(),
            "version": traffic.stable.version,
            "candidate": traffic.candidate.version if traffic.candidate else None,
            "percent": traffic.rollout.percent if traffic.rollout else 0,
        }
        self._send(sender, {"outcome": strings(json.dumps(told))})

    def _send(self, sender: Any, tensors: Tensors) -> None:
        raise NotImplementedError


async def _cancel_all() -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def log_warning(message: str) -> None:
    pb_utils.Logger.log_warn(message)


def log_info(message: str) -> None:
    pb_utils.Logger.log_info(message)


def read_request(request: Any) -> GenerateRequest:
    """The typed request, from tensors and parameters.

    Triton's ``/generate`` endpoint turns every JSON field that is not an input into a parameter; an unknown one is
    refused here.
    """
    inputs, parameters = inputs_of(request), parameters_of(request)
    fields = {name: inputs[name] if name in _IMAGES else scalar(inputs, name) for name in inputs if name in _INPUTS}
    fields |= {name: value for name, value in parameters.items() if name not in _TRITONS_OWN}
    if request.request_id():
        fields.setdefault("request_id", request.request_id())
    return GenerateRequest.parse(fields)


async def tensors_of(reply: Reply, output_format: str) -> dict[str, np.ndarray]:
    """A reply as output tensors: the report always, the image in the form that the caller asked for."""
    report = {"outcome": strings(reply.outcome.to_json())}
    if output_format == "png":
        return {"png": await png_tensor(reply.image, reply.outcome.metadata()), **report}
    return {"image": reply.image, **report} if output_format == "tensor" else report


async def png_tensor(image: np.ndarray, metadata: Mapping[str, Any]) -> np.ndarray:
    """An image as base64 PNG; compressed in a thread, since others wait for the event loop."""
    return strings(to_base64(await asyncio.to_thread(to_png, image, metadata)))
