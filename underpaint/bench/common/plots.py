"""What plots have in common. They are for people in the last row: one message each, said in its title; labels at the
lines instead of a legend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.patheffects import withStroke

INK, PALE, GRID, PAPER = "#282828", "#807e78", "#e4e2dc", "#faf9f6"
_COLOURS = {
    "vanilla": "#6b6b6b",
    "modm": "#c8452d",
    "modm-text": "#e58a5f",
    "nirvana": "#2f6fb5",
    "retrieval": "#8c5fb0",
    "small": "#d99a2b",
    "random-mix": "#b9a36b",
    "random-source": "#7fa37a",
}
_SPARE = ("#1d8a7a", "#b0477f", "#54707f", "#9a6b3f")
SIZE = (8.0, 5.0)


_STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 12,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": PALE,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": GRID,
    "axes.axisbelow": True,
}


def colour(name: str) -> str:
    """The same for the same policy in every plot."""
    return _COLOURS.get(name) or _SPARE[sum(name.encode()) % len(_SPARE)]


def canvas(size: tuple[float, float], title: str) -> tuple[Any, Any]:
    """A figure with one panel."""
    figure, (axes,) = panels(size, title, 1)
    return figure, axes


def panels(size: tuple[float, float], title: str, count: int, shared: bool = True) -> tuple[Any, list[Any]]:
    """A figure with panels one above the other, which share what is to the right unless told otherwise."""
    with plt.rc_context(_STYLE):
        figure, axes = plt.subplots(count, 1, figsize=size, sharex=shared, squeeze=False, layout="constrained")
    axes[0, 0].set_title(title, loc="left", fontsize=15, weight="bold", pad=14)
    return figure, list(axes[:, 0])


def label_ends(axes: Any, ends: Sequence[tuple[str, float, float]]) -> None:
    """Names at the right ends of lines, apart enough to be read."""
    low, high = axes.get_ylim()
    heights = spread_out([y for _, _, y in ends], gap=0.055 * (high - low), highest=high)
    for (name, x, _), y in zip(ends, heights, strict=True):
        write(axes, name, (x, y), (8, 0), colour(name))
    axes.margins(x=0.12)


def spread_out(heights: Sequence[float], gap: float, highest: float) -> list[float]:
    """The same, moved apart by at least ``gap``: upwards, and down again where that leads beyond ``highest``."""
    order = sorted(range(len(heights)), key=lambda i: heights[i])
    placed: list[float] = []
    for i in order:
        placed.append(max(heights[i], placed[-1] + gap) if placed else heights[i])
    for i in reversed(range(len(placed))):
        placed[i] = min(placed[i], highest - gap * (len(placed) - 1 - i))
    return [placed[order.index(i)] for i in range(len(heights))]


def write(axes: Any, text: str, at: tuple[float, float], offset: tuple[float, float], ink: str, **font: Any) -> None:
    """With a halo, so that it can be read across lines."""
    halo = [withStroke(linewidth=3, foreground=PAPER)]
    axes.annotate(text, at, offset, textcoords="offset points", va="center", color=ink, path_effects=halo, **font)


def latency_cdf(latencies_s: Mapping[str, Sequence[float]], path: Path, note: str) -> None:
    figure, axes = canvas(SIZE, "How long requests take")
    for name, values in latencies_s.items():
        ordered = np.sort(values)
        axes.step(ordered, np.arange(1, len(ordered) + 1) / len(ordered), where="post", color=colour(name), linewidth=2)
    _label_curves(axes, {name: np.sort(values) for name, values in latencies_s.items()})
    axes.set_ylim(0, 1.02)
    axes.set_xlim(left=0)
    axes.set_xlabel("seconds")
    axes.set_ylabel("share of requests answered within")
    footnote(figure, note)
    save(figure, path)


def _label_curves(axes: Any, ordered: Mapping[str, np.ndarray]) -> None:
    """Names beside distribution curves: from the fastest at the top to the slowest at the bottom, they never meet."""
    fastest_first = sorted(ordered, key=lambda name: float(np.median(ordered[name])))
    for number, name in enumerate(fastest_first):
        height = 0.9 - 0.8 * number / max(len(ordered) - 1, 1)
        x = float(np.quantile(ordered[name], height))
        write(axes, name, (x, height), (8, 0), colour(name), weight="bold")


def footnote(figure: Any, text: str) -> None:
    figure.supxlabel(text, fontsize=9.5, color=PALE, x=0.01, ha="left")


def save(figure: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=200, facecolor=PAPER)
    plt.close(figure)
