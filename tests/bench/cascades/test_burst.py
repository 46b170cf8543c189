"""Bursts and how they are borne, by replies that are made up."""

from __future__ import annotations

import pytest

from tests.bench.fakes import account
from underpaint.bench.cascades.burst import Burst, weathered
from underpaint.bench.cascades.replay import Yardstick
from underpaint.bench.demand.open_loop import UNANSWERED, Reply

BURST = Burst(before_per_s=2.0, times=8.0, lasts_s=30.0, around_s=20.0)
YARDSTICK = Yardstick(sustained_per_s=4.0, unloaded_s=0.25)


def reply(due_s: float, latency_s: float = 0.5, trouble: str = "") -> Reply:
    return Reply(0, due_s, due_s, due_s + latency_s, trouble, None if trouble else account())


def test_demand_jumps_and_falls_back() -> None:
    plan = BURST.schedule()
    assert plan.seconds == 70.0 and plan.interval_s == 10.0
    assert plan.rates_per_s == (2.0, 2.0, 16.0, 16.0, 16.0, 2.0, 2.0)


def test_goodput_counts_who_was_in_time_during_the_burst() -> None:
    replies = [
        reply(1.0),
        *(reply(20.0 + n / 4) for n in range(60)),
        *(reply(40.0, 9.0) for _ in range(9)),
        reply(60.0),
    ]
    found = weathered(BURST, replies, YARDSTICK, limit_s=1.0)
    assert found.goodput_ratio == pytest.approx(60 / 30 / 4)
    assert (found.requests, found.refused, found.failed, found.unanswered) == (71, 0, 0, 0)


def test_troubles_are_told_apart() -> None:
    replies = [reply(30.0, trouble=name) for name in ("Overloaded", "Overloaded", "Internal", UNANSWERED)]
    found = weathered(BURST, replies, YARDSTICK, limit_s=1.0)
    assert (found.refused, found.failed, found.unanswered, found.goodput_ratio) == (2, 1, 1, 0.0)


@pytest.mark.parametrize(
    "late, recovery_s",
    [((), 0.0), ((51.0, 55.0), 6.0), ((69.0,), None)],
    ids=["never ill", "ill for a while", "to the end"],
)
def test_recovery_is_when_the_last_window_that_is_not_well_is_over(
    late: tuple[float, ...], recovery_s: float | None
) -> None:
    replies = [reply(50.0 + n / 2, 5.0 if 50.0 + n / 2 in late else 0.5) for n in range(40)]
    assert weathered(BURST, replies, YARDSTICK, limit_s=1.0).recovery_s == recovery_s
