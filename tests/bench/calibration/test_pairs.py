"""Thresholds from measurements whose truth is known."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from underpaint.bench.calibration.pairs import (
    BIN_PAIRS,
    Measurements,
    Pair,
    Requests,
    bins,
    isotonic,
    thresholds,
)
from underpaint.errors import InvalidArgument
from underpaint.policies.thresholds import NEVER

SKIPS = (0.2, 0.4, 0.6)


def pairs(count: int = 1200, noise: float = 0.0, seed: int = 0) -> list[Pair]:
    """Quality falls with what is skipped and with what is missing of similarity: a skip of k keeps .98 from 1 - .02/k
    on, so .9, .95 and .9667."""
    random = np.random.default_rng(seed)
    made = []
    for similarity in random.uniform(0.7, 1.0, count):
        kept = {skip: 1 - skip * (1 - similarity) + noise * random.normal() for skip in SKIPS}
        made.append(Pair(float(similarity), 1.0, kept))
    return made


def test_thresholds_are_where_quality_is_just_enough() -> None:
    table = thresholds(pairs(), alpha=0.98)
    assert [row.skip for row in table.rows] == [0.6, 0.4, 0.2]
    assert [row.similarity for row in table.rows] == pytest.approx([0.9667, 0.95, 0.9], abs=0.02)


def test_noise_does_not_move_them_far() -> None:
    table = thresholds(pairs(noise=0.1), alpha=0.98)
    assert [row.similarity for row in table.rows][-1] == pytest.approx(0.9, abs=0.06)


def test_what_is_asked_of_quality_decides() -> None:
    strict, lax = thresholds(pairs(), 0.995), thresholds(pairs(), 0.9)
    assert strict.reach > lax.reach
    assert lax.skip(0.99) == strict.skip(0.9999) == 0.6


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 1000), st.floats(0.9, 1.0), st.floats(0.0, 0.3))
def test_a_table_is_always_a_table(seed: int, alpha: float, noise: float) -> None:
    """Thresholds refuses rows that do not fall; what it lets be reused is about as good as it says."""
    own = pairs(300, noise, seed)
    table = thresholds(own, alpha)
    kept = [pair.by_skip[table.skip(pair.similarity)] for pair in own if table.row(pair.similarity)]
    assert not kept or np.mean(kept) > alpha - 0.15


def test_too_few_pairs_never_hit() -> None:
    assert thresholds(pairs(BIN_PAIRS - 1), 0.5) == thresholds([], 0.5) == NEVER


def test_quality_that_is_never_enough_never_hits() -> None:
    bad = [Pair(pair.similarity, 1.0, dict.fromkeys(SKIPS, 0.1)) for pair in pairs(200)]
    assert thresholds(bad, 0.98) == NEVER


def test_a_longer_skip_that_does_as_well_replaces_the_shorter() -> None:
    same = [Pair(pair.similarity, 1.0, dict.fromkeys(SKIPS, 1.0)) for pair in pairs(200)]
    table = thresholds(same, 0.98)
    assert [row.skip for row in table.rows] == [0.6]


def test_a_longer_skip_may_do_where_a_shorter_does_not() -> None:
    """A weak refiner does more harm the more it paints."""
    odd = [Pair(p.similarity, 1.0, {0.2: 0.5, 0.4: 1.0, 0.6: 1.0}) for p in pairs(200)]
    assert [row.skip for row in thresholds(odd, 0.98).rows] == [0.6]


def test_equal_similarities_stay_in_one_bin() -> None:
    """Verbatim repeats, a third of a workload, all have similarity 1."""
    repeats = [Pair(1.0, 1.0, dict.fromkeys(SKIPS, 1.0))] * 100
    cut = bins(pairs(100) + repeats)
    assert cut[-1].similarity == 1.0 and cut[-1].pairs == 100
    assert thresholds(repeats, 0.98).skip(0.99999) == 0.6


def test_bins_hold_enough_and_everything() -> None:
    cut = bins(pairs(130))
    assert sum(each.pairs for each in cut) == 130 and min(each.pairs for each in cut) >= BIN_PAIRS
    assert [each.similarity for each in cut] == sorted(each.similarity for each in cut)


def test_isotonic_regression() -> None:
    assert isotonic([1, 3, 2, 4], [1, 1, 1, 1]) == [1, 2.5, 2.5, 4]
    assert isotonic([3, 2, 1], [1, 1, 2]) == [pytest.approx(1.75)] * 3
    assert isotonic([], []) == []


@given(st.lists(st.tuples(st.floats(-5, 5), st.floats(0.1, 5)), max_size=30))
def test_isotonic_regression_rises_and_keeps_the_mean(rows: list[tuple[float, float]]) -> None:
    values, weights = [row[0] for row in rows], [row[1] for row in rows]
    smooth = isotonic(values, weights)
    assert all(b - a >= -1e-9 for a, b in itertools.pairwise(smooth))
    assert np.dot(smooth, weights) == pytest.approx(np.dot(values, weights), abs=1e-6)


def test_measurements_survive_a_file(tmp_path: Path) -> None:
    requests = Requests([1.0, 0.5], [0.5, 0.25], [0.9, 0.8], [0.7, 0.6], [0.1, 0.2])
    made = Measurements(
        "e",
        "s",
        "l",
        {"modm": tuple(pairs(5))},
        requests,
        {"modm": 0.3},
        {"text": [[1.0]]},
        "r",
        "d",
        "now",
        "here",
        False,
    )
    made.save(tmp_path / "runs" / "m.json")
    assert Measurements.load(tmp_path / "runs" / "m.json") == made


def test_files_that_are_no_measurements(tmp_path: Path) -> None:
    for text in ("", "[]", "{}", '{"pairs": {"modm": [{}]}}'):
        (tmp_path / "m.json").write_text(text)
        with pytest.raises(InvalidArgument, match="calibrate --save"):
            Measurements.load(tmp_path / "m.json")
    with pytest.raises(InvalidArgument):
        Measurements.load(tmp_path / "none.json")
