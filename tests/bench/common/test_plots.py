"""Where labels go; what plots look like is for people to judge."""

from __future__ import annotations

import pytest

from underpaint.bench.common.plots import colour, spread_out


def test_labels_stand_apart_and_stay_inside() -> None:
    assert spread_out([0.2, 0.9], 0.05, 1.0) == [0.2, 0.9]
    assert spread_out([0.5, 0.5, 0.1], 0.05, 1.0) == pytest.approx([0.5, 0.55, 0.1])
    assert spread_out([1.0, 1.0, 0.98], 0.05, 1.0) == pytest.approx([0.95, 1.0, 0.9])
    assert spread_out([], 0.05, 1.0) == []


def test_a_policy_always_has_the_same_colour() -> None:
    assert colour("modm") == colour("modm") != colour("vanilla")
    assert colour("something new").startswith("#")
