"""The process beside the server: it comes back when it dies, and goes with the server."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from underpaint.cli import main
from underpaint.server.companion import Companion


def wait_until(holds: Callable[[], bool], within_s: float = 60.0) -> None:
    deadline = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_it_comes_back_and_goes() -> None:
    """The command has nothing to monitor, so it would wait for metrics for ever."""
    with Companion(["monitor", "--help"], again_after_s=0.1) as companion:
        first = companion.pid
        wait_until(lambda: companion.pid != first)  # --help ends by itself
    last = companion.pid
    assert last is not None and not psutil.pid_exists(last)


def test_one_that_is_killed_is_started_again(tmp_path: Path) -> None:
    from tests.monitor.test_monitor import PROFILE

    PROFILE.save(tmp_path / "profile.json")
    arguments = ["monitor", "--store", str(tmp_path), "--server", "127.0.0.1:1:1"]
    with Companion(arguments, again_after_s=0.1) as companion:
        first = companion.pid
        assert first is not None
        wait_until((tmp_path / "monitor.lock").exists)
        os.kill(first, signal.SIGKILL)
        wait_until(lambda: companion.pid != first)
        wait_until(lambda: companion.pid is not None and psutil.pid_exists(companion.pid))
    assert companion.pid is not None and not psutil.pid_exists(companion.pid)


def test_a_monitor_needs_a_profile(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--store", str(tmp_path), "--monitor"]) == 2
    assert "underpaint profile" in capsys.readouterr().err
