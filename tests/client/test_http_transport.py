"""HTTP against a server of a few lines, which answers what a test tells it to."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from underpaint.client import AsyncClient, Client
from underpaint.errors import (
    Cancelled,
    DeadlineExceeded,
    Internal,
    InvalidArgument,
    NotFound,
    Unavailable,
    UnderpaintError,
    Unsupported,
)

Caller = Callable[[str, float | None], None]


class Answering(ThreadingHTTPServer):
    """Keeps what it was sent. ``status`` and ``text`` are its answer, after ``delay_s``."""

    daemon_threads = True
    status, text, delay_s = 400, "no", 0.0

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[dict[str, object]] = []
        self.done = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Answering

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        head = body[: int(self.headers.get("Inference-Header-Content-Length", len(body)))]
        self.server.asked.append(json.loads(head))
        if len(self.server.asked) == 1:
            self.server.done.wait(self.server.delay_s)
        answer = json.dumps({"error": self.server.text}).encode()
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def http() -> Iterator[Answering]:
    with Answering() as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.done.set()
        server.shutdown()


def ask(url: str, timeout_s: float | None = None) -> None:
    with Client(url, timeout_s=timeout_s) as client:
        client.generate("a red circle", request_id="me")


def ask_async(url: str, timeout_s: float | None = None) -> None:
    async def main() -> None:
        async with AsyncClient(url, timeout_s=timeout_s) as client:
            await client.generate("a red circle", request_id="me")

    asyncio.run(main())


both = pytest.mark.parametrize("caller", [ask, ask_async])


@both
@pytest.mark.parametrize(
    ("status", "text", "kind"),
    [
        (400, "seed: got -1; allowed: 0 or more", InvalidArgument),
        (404, "request_id: no request 'x' is being served", NotFound),
        (503, "the server is full", Unavailable),
        (503, "deadline passed at step 3 of 25", DeadlineExceeded),
        (400, "request me was cancelled at step 3", Cancelled),
        (500, "ValueError: oh", Internal),
    ],
)
def test_the_servers_own_errors_keep_their_words(
    http: Answering, caller: Caller, status: int, text: str, kind: type[UnderpaintError]
) -> None:
    http.status, http.text = status, text
    with pytest.raises(UnderpaintError) as caught:
        caller(http.url, None)
    assert type(caught.value) is kind and str(caught.value) == text
    assert http.asked[0]["parameters"]["request_id"] == "me"


@both
def test_who_gives_up_withdraws_the_request(http: Answering, caller: Caller) -> None:
    http.delay_s = 30.0
    with pytest.raises(DeadlineExceeded, match=r"within 0\.3 s"):
        caller(http.url, 0.3)
    assert len(http.asked) == 2
    assert http.asked[1]["parameters"]["request_id"] == "me"
    assert [tensor["name"] for tensor in http.asked[1]["inputs"]] == ["op"]


def test_a_cancelled_task_withdraws_the_request(http: Answering) -> None:
    http.delay_s = 30.0

    async def main() -> None:
        async with AsyncClient(http.url) as client:
            task = asyncio.create_task(client.generate("a red circle", request_id="me"))
            await asyncio.sleep(0.3)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(main())
    assert [tensor["name"] for tensor in http.asked[1]["inputs"]] == ["op"]


@both
def test_nobody_there(caller: Caller) -> None:
    with pytest.raises(Unavailable, match=r"no server at 127\.0\.0\.1:1; start one with `underpaint serve`"):
        caller("http://127.0.0.1:1", None)


def test_http_has_no_progress(http: Answering) -> None:
    with Client(http.url) as client, pytest.raises(Unsupported, match="gRPC"):
        client.stream("a red circle")
