"""One real tritonserver, with the committed model repository, for all tests that need one."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[1] / "model_repository"


@pytest.fixture(scope="session", autouse=True)
def no_store_of_a_user(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Every server and command of these tests has its cache in a folder of theirs."""
    folder = tmp_path_factory.mktemp("store")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNDERPAINT_STORE", str(folder))
        yield folder


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the model repository, in which tests may calibrate and decide as they like."""
    copy = tmp_path_factory.mktemp("served") / REPOSITORY.name
    return Path(shutil.copytree(REPOSITORY, copy, ignore=shutil.ignore_patterns("__pycache__")))


@pytest.fixture(scope="session")
def server(repository: Path, no_store_of_a_user: Path) -> Iterator[Any]:
    """The embedded server on free ports (see ``underpaint.server.EmbeddedServer``), with an empty cache."""
    from underpaint.server import EmbeddedServer, ServerOptions

    options = ServerOptions(model_repository=repository, http_port=0, grpc_port=0, metrics_port=0)
    with EmbeddedServer(options) as running:
        yield running
