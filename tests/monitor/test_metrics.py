"""Endpoints that answer, hang, break off or talk nonsense."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from underpaint.errors import Unavailable
from underpaint.monitor.metrics import Endpoint, Sample

TEXT = """# HELP hits_total Hits
# TYPE hits_total counter
hits_total{policy="modm",model="a"} 3
hits_total{policy="modm",model="b"} 4
hits_total{policy="nirvana",model="a"} 5
# TYPE waiting gauge
waiting{model="x"} 2
"""


@contextmanager
def serving(answer: Callable[[BaseHTTPRequestHandler], None]) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer(self)

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/metrics"
    finally:
        server.shutdown()
        server.server_close()


def say(text: str, status: int = 200) -> Callable[[BaseHTTPRequestHandler], None]:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        handler.end_headers()
        handler.wfile.write(text.encode())

    return answer


def test_values_add_up_over_labels() -> None:
    sample = Sample.parse(TEXT, at=1.0)
    assert sample.total("hits_total") == 12
    assert sample.by("hits_total", "policy") == {"modm": 7, "nirvana": 5}
    assert sample.total("nothing") == 0 and not sample.by("nothing", "policy")


def test_growth_survives_a_restart_of_the_server() -> None:
    before = Sample.parse('a_total 10\nb_total{x="1"} 7\n', at=5.0)
    now = Sample.parse('a_total 12\nb_total{x="1"} 3\nb_total{x="2"} 4\n', at=8.0)
    grown = now.since(before)
    assert (grown.at, grown.total("a_total"), grown.total("b_total")) == (3.0, 2, 7)


def test_an_endpoint_is_read() -> None:
    with serving(say(TEXT)) as url:
        endpoint = Endpoint(url, clock=lambda: 42.0)
        sample = endpoint.fetch(within_s=10.0)
    assert (sample.at, sample.total("waiting")) == (42.0, 2)


@pytest.mark.parametrize("answer", [say("<html>no</html>"), say("busy", status=503)], ids=["nonsense", "error"])
def test_what_is_no_metrics_is_said_so(answer: Callable[[BaseHTTPRequestHandler], None]) -> None:
    with serving(answer) as url, pytest.raises(Unavailable):
        Endpoint(url).fetch(within_s=10.0)


def test_nobody_there_is_said_so() -> None:
    with pytest.raises(Unavailable, match="refused"):
        Endpoint("http://127.0.0.1:1/metrics").fetch(within_s=5.0)


def test_one_that_hangs_is_given_up_and_asked_again_only_when_it_has_answered() -> None:
    released = threading.Event()

    def hang(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        for _ in range(3000):  # a byte now and then keeps every read within its timeout
            handler.wfile.write(b"\n")
            handler.wfile.flush()
            if released.wait(0.01):
                return

    with serving(hang) as url:
        endpoint = Endpoint(url)
        with pytest.raises(Unavailable, match="did not answer within"):
            endpoint.fetch(within_s=0.2)
        with pytest.raises(Unavailable, match="still owes"):
            endpoint.fetch(within_s=0.2)
        released.set()
        endpoint.close()
