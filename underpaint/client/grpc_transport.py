"""gRPC, through the stubs that come with tritonclient: they hand out the call, and a call can be cancelled.

The two classes differ in ``await`` alone; what they share is ``grpc_wire``.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator

import grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

from underpaint.client.address import Address
from underpaint.client.grpc_wire import (
    CHANNEL_OPTIONS,
    STREAM_METADATA,
    from_message,
    from_stream_message,
    to_error,
    to_message,
)
from underpaint.client.messages import Call
from underpaint.front_door.transport import Tensors

_PROBE_S = 2.0


class GrpcTransport:
    """See ``Transport``. Threads may share it."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self._channel = grpc.insecure_channel(address.target, CHANNEL_OPTIONS)
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)

    def infer(self, call: Call, timeout_s: float | None) -> Tensors:
        answer = self._stub.ModelInfer.future(to_message(call), timeout=timeout_s)
        try:
            return from_message(answer.result())
        except grpc.RpcError as error:
            raise to_error(error, self.address, timeout_s) from None
        finally:
            answer.cancel()  # whoever is interrupted here withdraws the request; one that is done ignores it

    def stream(self, call: Call, timeout_s: float | None) -> Generator[Tensors, None, None]:
        answers = self._stub.ModelStreamInfer(iter([to_message(call)]), timeout=timeout_s, metadata=STREAM_METADATA)
        try:
            for message in answers:
                yield from_stream_message(message)
        except grpc.RpcError as error:
            raise to_error(error, self.address, timeout_s) from None
        finally:
            answers.cancel()

    def ready(self, model: str) -> bool:
        try:
            return self._stub.ModelReady(service_pb2.ModelReadyRequest(name=model), timeout=_PROBE_S).ready
        except grpc.RpcError:
            return False

    def close(self) -> None:
        self._channel.close()


class AsyncGrpcTransport:
    """See ``AsyncTransport``. Belongs to the event loop that runs when it is made."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self._channel = grpc.aio.insecure_channel(address.target, CHANNEL_OPTIONS)
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)

    async def infer(self, call: Call, timeout_s: float | None) -> Tensors:
        answer = self._stub.ModelInfer(to_message(call), timeout=timeout_s)
        try:
            return from_message(await answer)
        except grpc.RpcError as error:
            raise to_error(error, self.address, timeout_s) from None
        finally:
            answer.cancel()

    async def stream(self, call: Call, timeout_s: float | None) -> AsyncGenerator[Tensors, None]:
        answers = self._stub.ModelStreamInfer(iter([to_message(call)]), timeout=timeout_s, metadata=STREAM_METADATA)
        try:
            async for message in answers:
                yield from_stream_message(message)
        except grpc.RpcError as error:
            raise to_error(error, self.address, timeout_s) from None
        finally:
            answers.cancel()

    async def ready(self, model: str) -> bool:
        try:
            return (await self._stub.ModelReady(service_pb2.ModelReadyRequest(name=model), timeout=_PROBE_S)).ready
        except grpc.RpcError:
            return False

    async def close(self) -> None:
        await self._channel.close()
