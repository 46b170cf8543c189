"""The pictures of ``underpaint bench policies``; what they look like is for people to judge."""

from __future__ import annotations

from pathlib import Path

from underpaint.bench.policies.plots import Point, frontier


def test_a_frontier_of_several_calibrations(tmp_path: Path) -> None:
    points = [Point("vanilla", 1.0, 1.0, 1.0, 1.0), Point("small", 4.0, 0.9, 0.88, 0.92)]
    points += [Point("modm", 2 + a, 1 - a / 10, 0.8, 1.0, alpha=1 - a / 10) for a in (0.2, 0.5, 1.0)]
    frontier(points, tmp_path / "frontier.png")
    assert (tmp_path / "frontier.png").stat().st_size > 5000
