"""HTTP, through tritonclient. One image an answer: Triton's HTTP endpoint for tensors does not stream.

A server does not notice when an HTTP caller hangs up, so a call that is left early is withdrawn by its request id.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator, Generator
from contextlib import suppress
from http.client import HTTPException
from typing import Any

import aiohttp
from tritonclient.http import InferenceServerClient, InferInput
from tritonclient.http.aio import InferenceServerClient as AsyncInferenceServerClient
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from underpaint.client import failures
from underpaint.client.address import Address
from underpaint.client.messages import Call, cancel_call
from underpaint.errors import UnderpaintError, Unsupported
from underpaint.front_door.transport import Tensors

_STATUSES = {
    "400": "INVALID_ARG",
    "404": "NOT_FOUND",
    "501": "UNSUPPORTED",
    "503": "UNAVAILABLE",
}
_PROBE_S = 2.0
_FAILURES = (InferenceServerException, HTTPException, aiohttp.ClientError, OSError)  # TimeoutError is an OSError


class HttpTransport:
    """See ``Transport``. Threads may share it, since every call has a connection of its own."""

    def __init__(self, address: Address) -> None:
        self.address = address

    def infer(self, call: Call, timeout_s: float | None) -> Tensors:
        try:
            return self._post(call, timeout_s)
        except _FAILURES as error:
            if isinstance(error, TimeoutError):
                self._withdraw(call)
            raise _to_error(error, self.address, timeout_s) from None
        except BaseException:
            self._withdraw(call)
            raise

    def stream(self, call: Call, timeout_s: float | None) -> Generator[Tensors, None, None]:
        raise _no_stream()

    def ready(self, model: str) -> bool:
        try:
            with InferenceServerClient(self.address.target, network_timeout=_PROBE_S) as client:
                return client.is_model_ready(model)
        except _FAILURES:
            return False

    def close(self) -> None:
        """Nothing is held open between calls."""

    def _post(self, call: Call, timeout_s: float | None) -> Tensors:
        with InferenceServerClient(self.address.target, network_timeout=timeout_s) as client:
            return _tensors(client.infer(call.model, _inputs(call), parameters=dict(call.parameters)))

    def _withdraw(self, call: Call) -> None:
        with suppress(*_FAILURES):  # it may be done by now, or the server gone
            self._post(cancel_call(str(call.parameters["request_id"])), _PROBE_S)


class AsyncHttpTransport:
    """See ``AsyncTransport``."""

    def __init__(self, address: Address) -> None:
        self.address = address

    async def infer(self, call: Call, timeout_s: float | None) -> Tensors:
        try:
            return await self._post(call, timeout_s)
        except _FAILURES as error:
            if isinstance(error, TimeoutError):
                await self._withdraw(call)
            raise _to_error(error, self.address, timeout_s) from None
        except asyncio.CancelledError:
            await asyncio.shield(self._withdraw(call))
            raise

    def stream(self, call: Call, timeout_s: float | None) -> AsyncGenerator[Tensors, None]:
        raise _no_stream()

    async def ready(self, model: str) -> bool:
        try:
            async with AsyncInferenceServerClient(self.address.target, conn_timeout=_PROBE_S) as client:
                return await client.is_model_ready(model)
        except _FAILURES:
            return False

    async def close(self) -> None:
        """Nothing is held open between calls."""

    async def _post(self, call: Call, timeout_s: float | None) -> Tensors:
        async with AsyncInferenceServerClient(self.address.target, conn_timeout=timeout_s) as client:
            return _tensors(await client.infer(call.model, _inputs(call), parameters=dict(call.parameters)))

    async def _withdraw(self, call: Call) -> None:
        with suppress(*_FAILURES):
            await self._post(cancel_call(str(call.parameters["request_id"])), _PROBE_S)


def _inputs(call: Call) -> list[Any]:
    inputs = []
    for name, array in call.inputs.items():
        declared = InferInput(name, array.shape, np_to_triton_dtype(array.dtype))
        inputs.append(declared.set_data_from_numpy(array))
    return inputs


def _tensors(result: Any) -> Tensors:
    names = [output["name"] for output in result.get_response()["outputs"]]
    return {name: result.as_numpy(name) for name in names}


def _to_error(error: Exception, address: Address, timeout_s: float | None) -> UnderpaintError:
    if isinstance(error, InferenceServerException) and error.status():
        return failures.of_server(_STATUSES.get(error.status(), "INTERNAL"), error.message())
    if isinstance(error, TimeoutError):
        return failures.no_answer(address, timeout_s)
    if isinstance(error, ConnectionRefusedError | socket.gaierror | aiohttp.ClientConnectorError):
        return failures.no_server(address)
    if "Expected HTTP" in str(error):
        return failures.wrong_protocol(address)
    return failures.connection_lost(address, str(error) or type(error).__name__)


def _no_stream() -> Unsupported:
    return Unsupported("progress is streamed over gRPC only; use Triton's gRPC port, or generate instead of stream")
