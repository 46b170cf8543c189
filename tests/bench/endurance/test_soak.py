"""``underpaint bench soak``: what it asks for, and what it makes of what it sees."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from underpaint.bench.demand.open_loop import UNANSWERED, Reply
from underpaint.bench.demand.served import Account
from underpaint.bench.endurance.soak import MONITOR, Soaked, Use, growth, kill_of, members, uses, waves
from underpaint.bench.endurance.soak_cli import text
from underpaint.cli import main


def reply(ended_s: float, trouble: str = "", variant: str = "s") -> Reply:
    account = None if trouble else Account(variant, "noise", 4, 4, 1.0)
    return Reply(0, 0.0, 0.0, ended_s, trouble, account)


def test_demand_swings_between_low_and_high() -> None:
    plan = waves(2.0, 10.0, period_s=60, seconds=120)
    assert plan.seconds == 120
    assert min(plan.rates_per_s) == pytest.approx(2.0, abs=0.2)
    assert max(plan.rates_per_s) == pytest.approx(10.0, abs=0.2)
    assert plan.rates_per_s[:12] == pytest.approx(plan.rates_per_s[12:])


def test_growth_is_a_slope_through_all_looks() -> None:
    grown = growth([Use(at, 7, 100 + at / 60, 10, 3) for at in (0.0, 30.0, 60.0, 120.0)])
    assert grown.memory_mib_per_minute == pytest.approx(1.0)
    assert (grown.memory_mib, grown.files, grown.restarted) == ((100, 102), (10, 10), False)


def test_a_process_that_was_started_again_is_looked_at_from_then_on() -> None:
    seen = [Use(0, 7, 300, 90, 3), Use(10, 8, 50, 10, 3), Use(20, 8, 51, 11, 4)]
    grown = growth(seen)
    assert (grown.memory_mib, grown.files, grown.threads, grown.restarted) == ((50, 51), (10, 11), (3, 4), True)
    assert growth(seen[:1]).memory_mib_per_minute == 0
    assert "(again)" in text({"monitor": grown})


def test_what_happened_while_nobody_decided() -> None:
    replies = [reply(5), reply(12), reply(13, "Unavailable"), reply(30)]
    kill = kill_of(10.0, [2.0, 7.0, 18.0, 23.0], replies)
    assert (kill.decided_again_s, kill.answered_meanwhile, kill.failed_meanwhile) == (8.0, 1, 1)
    assert kill_of(10.0, [2.0, 7.0], replies).decided_again_s is None


def test_requests_are_counted_by_what_became_of_them() -> None:
    soaked = Soaked.of([reply(1), reply(2, variant="l"), reply(3, "Unavailable"), reply(4, UNANSWERED)])
    assert (soaked.requests, soaked.answered, soaked.failed, soaked.unanswered) == (4, 2, 1, 1)
    assert soaked.variants == {"l": 1, "s": 1}


def test_processes_are_found_by_what_they_are() -> None:
    """A parent with a child whose command line is that of a monitor."""
    child = f"{sys.executable!r}, '-c', 'input()', 'monitor'"
    script = f"import subprocess; subprocess.Popen([{child}]); print('up', flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as serving:
        assert serving.stdin is not None and serving.stdout is not None
        serving.stdout.readline()
        process = psutil.Process(serving.pid)
        assert set(members(process)) == {MONITOR}
        found = uses(process, 0.0)
        assert set(found) == {"serve", MONITOR}
        assert all(use.files >= 3 and use.memory_mib > 1 for use in found.values())
        members(process)[MONITOR].kill()
        serving.stdin.write(b"\n")


def test_bad_options_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "soak", "--profile", str(tmp_path / "none.json"), "--minutes", "0"]) == 2
    assert "minutes" in capsys.readouterr().err
    assert main(["bench", "soak", "--profile", str(tmp_path / "none.json")]) == 2
    assert "none.json" in capsys.readouterr().err
