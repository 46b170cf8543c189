"""Traces: their formats, what is wrong with files, and arrivals that follow them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from underpaint.bench.demand.traces import (
    ARRIVALS_AN_INTERVAL,
    Schedule,
    Trace,
    read_arrivals_s,
    read_trace,
    schedule,
    stretched,
)
from underpaint.errors import InvalidArgument, NotFound


def written(folder: Path, text: str) -> Path:
    path = folder / "trace.txt"
    path.write_text(text)
    return path


def test_arrivals_are_counted_in_any_order(tmp_path: Path) -> None:
    """Twice as many in the second half as in the first."""
    times = [*range(0, 100), *(100 + i / 2 for i in range(200))]
    np.random.default_rng(0).shuffle(times)
    trace = read_trace(written(tmp_path, "".join(f"{time},7\n" for time in times)))
    assert len(trace.demand) == 300 // ARRIVALS_AN_INTERVAL and sum(trace.demand) == 300
    assert sum(trace.demand[3:]) == pytest.approx(200, abs=3)


def test_summed_up_invocations_are_taken_as_they_are(tmp_path: Path) -> None:
    trace = read_trace(written(tmp_path, ",hour,invocations\n0,0,10.5\n1,1,20\n"))
    assert trace == Trace("trace", (10.5, 20.0))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "requests in it"),
        ("12.0,4\nsoon,5\n", "line 2"),
        ("12.0,4\n-3,5\n", "line 2"),
        (",hour,invocations\n0,0,nan\n", "line 2"),
        (",hour,invocations\n0,0\n", "line 2"),
        (",hour,invocations\n0,0,0\n", "requests in it"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(InvalidArgument, match=problem):
        read_trace(written(tmp_path, text))


def test_files_that_are_no_traces(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="No such file"):
        read_trace(tmp_path / "none.txt")
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\xff")
    with pytest.raises(InvalidArgument, match="text file"):
        read_trace(tmp_path / "picture.png")


def test_a_schedule_has_the_peak_and_the_length_that_were_asked_for() -> None:
    plan = schedule(Trace("t", (1.0, 4.0, 2.0)), peak_per_s=10.0, seconds=60.0)
    assert plan == Schedule(20.0, (2.5, 10.0, 5.0))
    assert (plan.seconds, plan.requests) == (60.0, 350.0)


def test_arrivals_follow_the_schedule() -> None:
    plan = Schedule(50.0, (2.0, 20.0, 0.0))
    arrivals = plan.arrivals_s(seed=1)
    assert arrivals == sorted(arrivals) == plan.arrivals_s(seed=1) != plan.arrivals_s(seed=2)
    first, second = sum(t < 50 for t in arrivals), sum(50 <= t < 100 for t in arrivals)
    assert first == pytest.approx(100, abs=40) and second == pytest.approx(1000, abs=130)
    assert max(arrivals) < 100


def test_gaps_are_those_of_a_poisson_process() -> None:
    gaps = np.diff(Schedule(1000.0, (5.0,)).arrivals_s(seed=0))
    assert gaps.mean() == pytest.approx(0.2, rel=0.05) and gaps.std() == pytest.approx(0.2, rel=0.1)


def test_a_stretched_trace_has_both_ends() -> None:
    plan = stretched(Trace("t", (6.0, 4.0, 5.0)), low_per_s=1.0, peak_per_s=9.0, seconds=30.0)
    assert plan == Schedule(10.0, (9.0, 1.0, 5.0))
    assert stretched(Trace("level", (3.0, 3.0)), 2.0, 8.0, 4.0).rates_per_s == (2.0, 2.0)


def test_arrivals_as_they_were_recorded(tmp_path: Path) -> None:
    assert read_arrivals_s(written(tmp_path, "2500,7\n500.0,3\n\n1000,1\n")) == [0.5, 1.0, 2.5]
    with pytest.raises(InvalidArgument, match="peak"):
        read_arrivals_s(written(tmp_path, "hour,invocations\n0,3\n"))
    with pytest.raises(InvalidArgument, match="requests in it"):
        read_arrivals_s(written(tmp_path, ""))
