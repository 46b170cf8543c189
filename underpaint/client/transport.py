"""The edge to the server: few enough methods that tests bring their own."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from typing import Protocol

from underpaint.client.address import Address
from underpaint.client.messages import Call
from underpaint.front_door.transport import Tensors


class Transport(Protocol):
    """Carries calls to a server. Leaving a call early, by exception or by closing its stream, withdraws it there.

    ``timeout_s`` bounds the whole call; None is as long as it takes. Every method but ``ready`` and ``close`` raises
    the classes of ``underpaint.errors``.
    """

    address: Address

    def infer(self, call: Call, timeout_s: float | None) -> Tensors: ...

    def stream(self, call: Call, timeout_s: float | None) -> Generator[Tensors, None, None]: ...

    def ready(self, model: str) -> bool: ...

    def close(self) -> None: ...


class AsyncTransport(Protocol):
    """The same, awaited."""

    address: Address

    async def infer(self, call: Call, timeout_s: float | None) -> Tensors: ...

    def stream(self, call: Call, timeout_s: float | None) -> AsyncGenerator[Tensors, None]: ...

    async def ready(self, model: str) -> bool: ...

    async def close(self) -> None: ...


def connect(url: str) -> Transport:
    """The transport that ``url`` asks for. Nothing is sent yet."""
    address = Address.parse(url)
    if address.scheme == "http":
        from underpaint.client.http_transport import HttpTransport  # brings gevent: not for those who use gRPC

        return HttpTransport(address)
    from underpaint.client.grpc_transport import GrpcTransport

    return GrpcTransport(address)


def connect_async(url: str) -> AsyncTransport:
    """The same, for asyncio."""
    address = Address.parse(url)
    if address.scheme == "http":
        from underpaint.client.http_transport import AsyncHttpTransport

        return AsyncHttpTransport(address)
    from underpaint.client.grpc_transport import AsyncGrpcTransport

    return AsyncGrpcTransport(address)
