"""The command line: what it refuses, and that there is only one monitor."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import filelock
import pytest

from tests.monitor.test_monitor import PROFILE
from underpaint.cli import main


@pytest.fixture(autouse=True)
def own_logging() -> Iterator[None]:
    """The command sets logging up, to a standard error that is gone after the test."""
    handlers = logging.root.handlers[:]
    yield
    logging.root.handlers[:] = handlers


def run(tmp_path: Path, *options: str) -> int:
    PROFILE.save(tmp_path / "profile.json")
    return main(["monitor", "--store", str(tmp_path), "--once", "--period", "0.1", *options])


def test_a_server_that_is_not_there_is_said_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, "--server", "127.0.0.1:1:1") == 2
    assert "no server answered twice" in capsys.readouterr().err


@pytest.mark.parametrize(
    "options, names",
    [
        (("--server", "localhost"), "HOST:HTTP_PORT:METRICS_PORT"),
        (("--allocator", "magic"), "clipper-light"),
        (("--devices", "0"), "1 or more"),
        (("--slo", "-1"), "above 0"),
    ],
)
def test_bad_options_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, ...], names: str
) -> None:
    assert run(tmp_path, *options) == 2
    assert names in capsys.readouterr().err


def test_without_a_profile_it_says_what_to_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["monitor", "--store", str(tmp_path), "--once"]) == 2
    assert "profile.json" in capsys.readouterr().err


def test_there_is_only_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with filelock.FileLock(tmp_path / "monitor.lock"):
        assert run(tmp_path) == 2
    assert "another monitor" in capsys.readouterr().err


def test_a_port_that_is_taken_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert run(tmp_path, "--metrics-port", str(taken.getsockname()[1])) == 2
    assert "metrics-port" in capsys.readouterr().err


def test_a_profile_of_other_models_is_said_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, "--server", "127.0.0.1:1:1") == 2
    assert "has a variant little, which is not deployed; run `underpaint profile`" in capsys.readouterr().err


def test_a_profile_of_another_machine_is_said_so_where_the_machine_is_known(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    replace(PROFILE, machine="an abacus").save(tmp_path / "other.json")
    for server, said in (("127.0.0.1:1:1", True), ("elsewhere.invalid:1:1", False)):
        assert run(tmp_path, "--server", server, "--profile", str(tmp_path / "other.json")) == 2
        assert ("measured on an abacus" in capsys.readouterr().err) == said
