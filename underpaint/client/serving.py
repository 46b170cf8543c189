"""A server of one's own for the time of a command."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from underpaint.client.messages import MODEL
from underpaint.deployment import FILE_NAME, Deployment
from underpaint.errors import InvalidArgument, Unsupported

if TYPE_CHECKING:
    from underpaint.server import EmbeddedServer


@contextmanager
def own_server(repository: Path, store: Path | None = None) -> Iterator[str]:
    """Serve ``repository`` on free ports, with the cache in the folder ``store``; yields the gRPC address."""
    with embedded(repository, store) as server:
        yield server.grpc_url


@contextmanager
def embedded(repository: Path, store: Path | None = None) -> Iterator[EmbeddedServer]:
    """The server itself, for those who want more of it than its address.

    Raises:
        Unsupported: the packages to do so are not installed.
        ServerStartError: see ``underpaint.server``.
    """
    try:
        from underpaint.server import EmbeddedServer, ServerOptions
    except ModuleNotFoundError as error:
        raise Unsupported(
            f"no {error.name} here to start a server with; pip install 'underpaint[embedded]', "
            "or name a running server with --url"
        ) from None
    _say("starting tritonserver …")
    started = time.monotonic()
    server = EmbeddedServer(ServerOptions(repository, http_port=0, grpc_port=0, metrics_port=0, store=store))
    with _status_line("underpaint.server"):
        server.start()
    try:
        _say(f"ready at {server.grpc_url} after {time.monotonic() - started:.1f} s")
        yield server
    finally:
        _say("stopping tritonserver …")
        server.stop()


@contextmanager
def _status_line(logger: str) -> Iterator[None]:
    """Meanwhile, show what ``logger`` has to say in one line that is overwritten; on a terminal only."""
    handler = _StatusLine(logging.INFO)
    log, level = logging.getLogger(logger), logging.getLogger(logger).level
    if not sys.stderr.isatty():
        yield
        return
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)
        handler.clear()


class _StatusLine(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        sys.stderr.write(f"\r\x1b[K{record.getMessage()}")
        sys.stderr.flush()

    def clear(self) -> None:
        sys.stderr.write("\r\x1b[K")
        sys.stderr.flush()


def deployment_of(repository: Path) -> Deployment:
    """What a model repository serves.

    Raises:
        InvalidArgument: it is not one that ``underpaint render`` has written.
    """
    folder = repository / MODEL / "1"
    if not (folder / FILE_NAME).is_file():
        raise InvalidArgument.of("model repository", str(repository), f"a folder with {MODEL}/1/{FILE_NAME} in it")
    return Deployment.load(folder)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
