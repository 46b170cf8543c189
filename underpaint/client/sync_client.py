"""The blocking client."""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import closing
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
from underpaint.client.transport import Transport, connect

_POLL_S = 0.2


class Client:
    """Talks to one server; threads may share it.

    Every method raises the classes of ``underpaint.errors``: InvalidArgument for what cannot be served as it stands,
    Unavailable where there is no server or it is full, DeadlineExceeded, Cancelled, and NotFound.
    """

    def __init__(
        self, url: str = DEFAULT_URL, *, timeout_s: float | None = None, transport: Transport | None = None
    ) -> None:
        """
        Args:
            url: ``host:port`` or ``grpc://host:port``; with ``http://host:port`` everything but ``stream`` works.
            timeout_s: give a request up, here and on the server, after so many seconds. Without it, a request with
                ``deadline_ms`` is given up 5 s after its deadline, and one without is waited for: a busy server may
                take long, and one that has died is noticed as a lost connection.
            transport: used instead of a connection to ``url``.
        """
        self._transport = transport or connect(url)
        self._timeout_s = timeout_s

    def generate(self, prompt: str, **wishes: Unpack[Wishes]) -> Picture:
        """Paint one picture. An interruption (Ctrl-C) withdraws the request on the server."""
        request = request_of(prompt, wishes)
        return picture_of(self._transport.infer(run_call(MODEL, request), patience_s(request, self._timeout_s)))

    def stream(self, prompt: str, **wishes: Unpack[Wishes]) -> Generator[Progress | Picture, None, None]:
        """Paint one picture and report on the way: ``Progress`` some times a second, the ``Picture`` at last.

        Leaving the loop early, or closing the iterator, withdraws the request on the server.
        """
        request = request_of(prompt, wishes)
        answers = self._transport.stream(run_call(STREAM_MODEL, request), patience_s(request, self._timeout_s))
        return _events(answers)

    def cancel(self, request_id: str) -> None:
        """Withdraw a request, whoever sent it; NotFound if nobody knows it (any more)."""
        self._transport.infer(cancel_call(request_id), self._timeout_s)

    def wait_ready(self, timeout_s: float = 60.0) -> None:
        """Return once the server serves requests; Unavailable after ``timeout_s`` seconds."""
        give_up_at = time.monotonic() + timeout_s
        while not (self._transport.ready(MODEL) and self._transport.ready(STREAM_MODEL)):
            if time.monotonic() >= give_up_at:
                raise failures.not_ready(self._transport.address, timeout_s)
            time.sleep(_POLL_S)

    def close(self) -> None:
        self._transport.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _events(answers: Generator[Tensors, None, None]) -> Generator[Progress | Picture, None, None]:
    """The picture is handed out once the stream has ended by itself: whoever has it leaves, and to cancel a stream
    that is about to end corrupts the memory of tritonserver 2.51 (double free, after some dozens of them)."""
    picture = None
    with closing(answers):
        for tensors in answers:
            event = event_of(tensors)
            if isinstance(event, Picture):
                picture = event
            else:
                yield event
    if picture is None:
        raise failures.no_picture()
    yield picture
