"""The fair clock: what a painting takes of the machine, whoever else is being painted."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from underpaint.front_door.workload import Workload


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def paint(load: Workload, clock: Clock, seconds: float, variant: str = "big", steps: int = 10) -> None:
    with load.job(variant, steps) as job, load.running(job):
        clock.now += seconds


def test_nothing_is_known_before_anything_was_painted(clock: Clock) -> None:
    load = Workload(clock)
    assert load.work_s("big", 10) == 0.0 and load.backlog_s() == 0.0


def test_alone_work_is_time(clock: Clock) -> None:
    load = Workload(clock)
    paint(load, clock, 2.0)
    assert load.work_s("big", 5) == pytest.approx(1.0)
    assert load.work_s("little", 5) == 0.0


def test_those_who_share_the_machine_share_the_time(clock: Clock) -> None:
    """Two at a time that take 4 s together are 2 s of work each."""
    load = Workload(clock)
    with ExitStack() as both:
        for _ in range(2):
            both.enter_context(load.running(both.enter_context(load.job("big", 10))))
        clock.now += 4.0
    assert load.work_s("big", 10) == pytest.approx(2.0)


def test_the_backlog_is_what_is_left_of_all_that_came(clock: Clock) -> None:
    load = Workload(clock)
    paint(load, clock, 2.0)
    with load.job("big", 10) as running, load.job("big", 20):
        assert load.backlog_s() == pytest.approx(6.0)
        with load.running(running):
            clock.now += 1.5
            assert load.backlog_s() == pytest.approx(4.5)
            clock.now += 5.0  # longer than expected: it cannot be less than nothing
            assert load.backlog_s() == pytest.approx(4.0)
    assert load.backlog_s() == 0.0


def test_a_painting_that_fails_teaches_nothing_and_leaves_nothing(clock: Clock) -> None:
    load = Workload(clock)
    with pytest.raises(RuntimeError), load.job("big", 10) as job, load.running(job):
        clock.now += 9.0
        raise RuntimeError
    assert load.work_s("big", 10) == 0.0 and load.backlog_s() == 0.0


def test_time_in_which_nobody_is_painted_does_not_count(clock: Clock) -> None:
    load = Workload(clock)
    clock.now += 50.0
    paint(load, clock, 1.0)
    clock.now += 50.0
    paint(load, clock, 1.0)
    assert load.work_s("big", 10) == pytest.approx(1.0)
