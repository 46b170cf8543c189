"""Pareto fronts of cascades, against splits that can be counted by hand."""

from __future__ import annotations

import numpy as np
import pytest

from underpaint.control.curves import Cascade
from underpaint.control.pareto import Paired, configurations, expected_s, front, mix
from underpaint.control.profile import Latency, VariantProfile
from underpaint.errors import InvalidArgument

SMALL, LARGE = VariantProfile("s", 4, (Latency(1, 1.0),)), VariantProfile("l", 50, (Latency(1, 4.0),))
N = 40
FAILS = np.arange(N) % 2 == 0  # the small variant, at every other prompt
ORACLE = Paired(FAILS * 1.0, 1.0 - FAILS, FAILS * 1.0, np.zeros(N))
BLIND = Paired(np.linspace(0, 1, N), np.linspace(0, 1, N), FAILS * 1.0, np.zeros(N))


def test_an_oracle_needs_the_large_variant_for_what_the_small_one_fails_at_and_no_more() -> None:
    assert ORACLE.loss(0, 0) == 0.5
    assert ORACLE.loss(0.5, 0) == 0
    assert ORACLE.loss(0, 0.5) == 0
    assert ORACLE.loss(0.25, 1 / 3) == 0
    assert BLIND.loss(0, 0.5) == BLIND.loss(0.5, 0) == 0.25


def test_loss_follows_who_paints() -> None:
    reverse = Paired(ORACLE.router, ORACLE.confidence, np.zeros(N), FAILS * 1.0)  # the large one is the worse
    assert [reverse.loss(0, e) for e in (0, 0.5, 1)] == [0, 0.5, 0.5]


def test_the_front_is_what_nothing_beats() -> None:
    rows = [*configurations(BLIND, "s", "l"), Cascade("s", "l", 0.33, 0.0, 0.9)]

    def cost(row: Cascade) -> float:
        return expected_s(row, SMALL, LARGE, judging_s=0.1)

    kept = front(rows, cost)
    assert kept[0].large_share == 0 and kept[-1].loss == min(row.loss for row in rows)
    for row in rows:
        assert any(cost(best) <= cost(row) and best.loss <= row.loss for best in kept)
    assert [each.loss for each in kept] == sorted((each.loss for each in kept), reverse=True)


def test_cost_of_a_split() -> None:
    assert expected_s(Cascade("s", "l", 0, 0, 0), SMALL, LARGE, 0.1) == 1
    assert expected_s(Cascade("s", "l", 1, 0, 0), SMALL, LARGE, 0.1) == 4
    assert expected_s(Cascade("s", "l", 0.5, 0.5, 0), SMALL, LARGE, 0.1) == pytest.approx(0.5 * 1.1 + 0.75 * 4)


def test_the_discriminators_own_curve() -> None:
    assert mix(ORACLE, "s", "l").loss(0.25) == pytest.approx(0.25)
    assert mix(ORACLE, "s", "l").loss(0.8) == 0


def test_bad_scores() -> None:
    with pytest.raises(InvalidArgument, match="scores"):
        Paired(np.zeros(2), np.zeros(3), np.zeros(2), np.zeros(2))
