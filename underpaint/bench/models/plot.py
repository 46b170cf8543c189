"""How good the variants' pictures are, by number of steps."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from matplotlib.ticker import PercentFormatter

from underpaint.bench.common.plots import SIZE, canvas, colour, label_ends, save


def step_curves(curves: Mapping[str, Mapping[int, float]], path: Path) -> None:
    """Share of faultless pictures by number of steps, a line a variant."""
    figure, axes = canvas(SIZE, "Faultless pictures by number of steps")
    ends = []
    for name, curve in curves.items():
        steps, shares = list(curve), list(curve.values())
        axes.plot(steps, shares, "o-", color=colour(name), linewidth=2)
        ends.append((name, steps[-1], shares[-1]))
    axes.set_ylim(0, 1.02)
    label_ends(axes, ends)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_xlabel("denoising steps")
    save(figure, path)
