"""The client for asyncio: ``sync_client`` with ``await``."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from types import TracebackType
from typing import Unpack

from underpaint.client import failures
from underpaint.client.address import DEFAULT_URL
from underpaint.client.messages import (
    MODEL,
    STREAM_MODEL,
    Tensors,
    Wishes,
    cancel_call,
    event_of,
    patience_s,
    picture_of,
    request_of,
    run_call,
)
from underpaint.client.pictures import Picture, Progress
from underpaint.client.transport import AsyncTransport, connect_async

_POLL_S = 0.2


class AsyncClient:
    """See ``Client`` for arguments and errors. Made inside a running event loop, it belongs to that loop."""

    def __init__(
        self, url: str = DEFAULT_URL, *, timeout_s: float | None = None, transport: AsyncTransport | None = None
    ) -> None:
        self._transport = transport or connect_async(url)
        self._timeout_s = timeout_s

    async def generate(self, prompt: str, **wishes: Unpack[Wishes]) -> Picture:
        """Paint one picture. Cancelling the task withdraws the request on the server."""
        request = request_of(prompt, wishes)
        return picture_of(await self._transport.infer(run_call(MODEL, request), patience_s(request, self._timeout_s)))

    def stream(self, prompt: str, **wishes: Unpack[Wishes]) -> AsyncGenerator[Progress | Picture, None]:
        """``Progress`` some times a second, the ``Picture`` at last; for ``async for``.

        To leave early, cancel the task or close the generator (``contextlib.aclosing``).
        """
        request = request_of(prompt, wishes)
        answers = self._transport.stream(run_call(STREAM_MODEL, request), patience_s(request, self._timeout_s))
        return _events(answers)

    async def cancel(self, request_id: str) -> None:
        """Withdraw a request, whoever sent it; NotFound if nobody knows it (any more)."""
        await self._transport.infer(cancel_call(request_id), self._timeout_s)

    async def wait_ready(self, timeout_s: float = 60.0) -> None:
        """Return once the server serves requests; Unavailable after ``timeout_s`` seconds."""
        give_up_at = time.monotonic() + timeout_s
        while not (await self._transport.ready(MODEL) and await self._transport.ready(STREAM_MODEL)):
            if time.monotonic() >= give_up_at:
                raise failures.not_ready(self._transport.address, timeout_s)
            await asyncio.sleep(_POLL_S)

    async def close(self) -> None:
        await self._transport.close()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()


async def _events(answers: AsyncGenerator[Tensors, None]) -> AsyncGenerator[Progress | Picture, None]:
    """See ``sync_client``."""
    picture = None
    async with aclosing(answers):
        async for tensors in answers:
            event = event_of(tensors)
            if isinstance(event, Picture):
                picture = event
            else:
                yield event
    if picture is None:
        raise failures.no_picture()
    yield picture
