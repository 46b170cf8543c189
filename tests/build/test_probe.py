"""A container is unwell as soon as one of its models is."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from underpaint.triton import probe


class Triton(BaseHTTPRequestHandler):
    """A server that is ready whatever its models are."""

    dead: frozenset[str] = frozenset()

    def do_GET(self) -> None:
        model = self.path.removeprefix("/v2/models/").partition("/")[0]
        self._answer(400 if model in self.dead else 200, b"")

    def do_POST(self) -> None:
        index = [{"name": name, "version": "1", "state": "READY"} for name in ("generate", "cache")]
        self._answer(200, json.dumps(index).encode())

    def _answer(self, status: int, body: bytes) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def address() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Triton)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_all_is_well(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert probe.main([address]) == 0
    assert capsys.readouterr().out == "all models are ready\n"


def test_a_dead_model_is_named(
    address: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Triton, "dead", frozenset({"cache"}))
    assert probe.main([address]) == 1
    assert capsys.readouterr().out == "cache is not ready\n"


def test_a_server_that_is_gone(capsys: pytest.CaptureFixture[str]) -> None:
    assert probe.main(["http://127.0.0.1:9"]) == 1
    assert "the server does not answer: " in capsys.readouterr().out
