"""One real tritonserver, with the committed model repository, for all tests that need one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[1] / "model_repository"


@pytest.fixture(scope="session")
def server() -> Iterator[Any]:
    """The embedded server on free ports (see ``underpaint.server.EmbeddedServer``)."""
    from underpaint.server import EmbeddedServer, ServerOptions

    options = ServerOptions(model_repository=REPOSITORY, http_port=0, grpc_port=0, metrics_port=0)
    with EmbeddedServer(options) as running:
        yield running
