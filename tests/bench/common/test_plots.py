"""Where labels go; what plots look like is for people to judge."""

from __future__ import annotations

from pathlib import Path

import pytest

from underpaint.bench.common.plots import Point, colour, frontier, spread_out


def test_labels_stand_apart_and_stay_inside() -> None:
    assert spread_out([0.2, 0.9], 0.05, 1.0) == [0.2, 0.9]
    assert spread_out([0.5, 0.5, 0.1], 0.05, 1.0) == pytest.approx([0.5, 0.55, 0.1])
    assert spread_out([1.0, 1.0, 0.98], 0.05, 1.0) == pytest.approx([0.95, 1.0, 0.9])
    assert spread_out([], 0.05, 1.0) == []


def test_a_policy_always_has_the_same_colour() -> None:
    assert colour("modm") == colour("modm") != colour("vanilla")
    assert colour("something new").startswith("#")


def test_a_frontier_of_several_calibrations(tmp_path: Path) -> None:
    points = [Point("vanilla", 1.0, 1.0, 1.0, 1.0), Point("small", 4.0, 0.9, 0.88, 0.92)]
    points += [Point("modm", 2 + a, 1 - a / 10, 0.8, 1.0, alpha=1 - a / 10) for a in (0.2, 0.5, 1.0)]
    frontier(points, tmp_path / "frontier.png")
    assert (tmp_path / "frontier.png").stat().st_size > 5000
