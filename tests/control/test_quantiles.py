"""The sketch against the sorted scores that it stands for."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from underpaint.control.quantiles import Quantiles
from underpaint.errors import InvalidArgument

SHARES = [0.0, 0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99, 1.0]
scores = st.lists(st.floats(-1e6, 1e6, allow_nan=False), min_size=1, max_size=2000)


def rank_error(sketch: Quantiles, values: np.ndarray, share: float) -> float:
    """How far the rank of the sketch's quantile is from the share that was asked for; equal scores have many ranks."""
    found = sketch.quantile(share)
    tolerance = 1e-9 * max(1.0, float(np.abs(values).max()))
    low, high = np.mean(values < found - tolerance), np.mean(values <= found + tolerance)
    return max(0.0, low - share, share - high)


@settings(max_examples=60, deadline=None)
@given(scores)
def test_quantiles_of_anything(values: list[float]) -> None:
    sketch = Quantiles.of(values)
    assert sketch.weight == pytest.approx(len(values))
    for share in SHARES:
        assert rank_error(sketch, np.array(values), share) <= 0.02 + 1 / len(values)
    found = [sketch.quantile(share) for share in SHARES]
    assert found == sorted(found)
    assert found[0] == min(values) and found[-1] == max(values)


@settings(max_examples=30, deadline=None)
@given(scores, scores)
def test_merged_sketches_speak_for_both_streams(first: list[float], second: list[float]) -> None:
    merged = Quantiles.of(first)
    merged.merge(Quantiles.of(second))
    both = np.array(first + second)
    assert merged.weight == pytest.approx(len(both))
    for share in SHARES:
        assert rank_error(merged, both, share) <= 0.03 + 1 / len(both)


@pytest.mark.parametrize("skew", [1, 8])
def test_size_is_bounded_and_skew_does_no_harm(skew: int) -> None:
    """HADIS' scores have a median of 2e-4 and reach up to 1."""
    values = np.random.default_rng(0).random(50_000) ** skew
    sketch = Quantiles.of(values)
    assert len(sketch.means) == 0 or len(sketch.means) <= 200
    for share in SHARES:
        assert rank_error(sketch, values, share) <= 0.015
        assert sketch.share_below(sketch.quantile(share)) == pytest.approx(share, abs=0.02)
    assert len(sketch.means) <= 200


def test_what_has_faded_gives_way_to_what_comes() -> None:
    sketch = Quantiles.of([0.1] * 1000)
    sketch.fade(0.01)
    sketch.merge(Quantiles.of([0.9] * 90))
    assert sketch.quantile(0.5) == pytest.approx(0.9, abs=0.01)
    sketch.fade(0.0)
    assert sketch.weight == 0
    assert sketch.share_below(0.5) == 0


def test_a_sketch_survives_its_file() -> None:
    sketch = Quantiles.of(np.random.default_rng(1).random(3000))
    again = Quantiles.from_json(json.loads(json.dumps(sketch.to_json())))
    assert [again.quantile(share) for share in SHARES] == [sketch.quantile(share) for share in SHARES]
    assert Quantiles.from_json(json.loads(json.dumps(Quantiles().to_json()))).weight == 0


def test_bad_input() -> None:
    for score in (float("nan"), float("inf")):
        with pytest.raises(InvalidArgument, match="score"):
            Quantiles().add(score)
    with pytest.raises(InvalidArgument, match="nothing seen"):
        Quantiles().quantile(0.5)
    with pytest.raises(InvalidArgument, match="share"):
        Quantiles.of([1.0]).quantile(1.5)
    with pytest.raises(InvalidArgument, match="kept"):
        Quantiles().fade(2)
    with pytest.raises(InvalidArgument, match="quantiles"):
        Quantiles.from_json({"means": [1.0], "weights": []})
