"""Demand is what arrives, not what has not been answered."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from underpaint.control.demand import DIFFSERVE, HADIS, OURS, Demand, Smoothing
from underpaint.errors import InvalidArgument

SMOOTHINGS = [DIFFSERVE, HADIS, OURS]


@pytest.mark.parametrize("smoothing", SMOOTHINGS)
def test_a_steady_demand_is_found_at_once_whatever_the_ticks(smoothing: Smoothing) -> None:
    demand = Demand(smoothing)
    for seconds in (1, 5, 0.5, 2):
        demand.count(int(8 * seconds), seconds)
        assert demand.per_s == pytest.approx(8 * smoothing.margin)


def test_published_weights() -> None:
    """pandas.Series([4, 10]).ewm(com=2.1).mean() ends at 7.580645…"""
    demand = Demand(DIFFSERVE)
    demand.count(4, 1)
    demand.count(10, 1)
    assert demand.per_s / DIFFSERVE.margin == pytest.approx((10 + 4 * 2.1 / 3.1) / (1 + 2.1 / 3.1))


def test_ours_rises_at_once_and_falls_slowly() -> None:
    demand = Demand(OURS)
    demand.count(10, 5)
    demand.count(80, 5)
    assert demand.per_s == pytest.approx(16)
    demand.count(10, 5)
    assert 2 < demand.per_s < 16


def test_a_clock_that_stands_still_or_runs_back_changes_nothing() -> None:
    demand = Demand(OURS)
    demand.count(10, 1)
    for seconds in (0, -3, float("nan")):
        demand.count(1000, seconds)
    assert demand.per_s == 10
    with pytest.raises(InvalidArgument, match="arrivals"):
        demand.count(-1, 1)


@given(st.lists(st.tuples(st.integers(0, 1000), st.floats(0.1, 60)), min_size=1, max_size=30))
def test_the_estimate_lies_between_the_rates_that_were_seen(counts: list[tuple[int, float]]) -> None:
    for smoothing in SMOOTHINGS:
        demand = Demand(smoothing)
        for arrivals, seconds in counts:
            demand.count(arrivals, seconds)
        rates = [arrivals / seconds for arrivals, seconds in counts]
        slack = 1e-9 * max(1.0, max(rates))
        assert min(rates) - slack <= demand.per_s / smoothing.margin <= max(rates) + slack
