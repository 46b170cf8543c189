"""Plots for people in the last row: one message each, said in its title; labels at the lines instead of a legend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.patheffects import withStroke
from matplotlib.ticker import PercentFormatter

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
_SIZE, _WIDE = (8.0, 5.0), (9.5, 5.0)


@dataclass(frozen=True)
class Bar:
    """``low`` and ``high`` span the slices; ``limit`` is what the cache's hits allow."""

    name: str
    value: float
    low: float
    high: float
    limit: float | None = None


@dataclass(frozen=True)
class Point:
    """A policy on the frontier; ``low`` and ``high`` bound its quality."""

    name: str
    throughput: float
    quality: float
    low: float
    high: float
    alpha: float | None = None


def colour(name: str) -> str:
    """The same for the same policy in every plot."""
    return _COLOURS.get(name) or _SPARE[sum(name.encode()) % len(_SPARE)]


def throughput_bars(bars: Sequence[Bar], path: Path) -> None:
    """A bar a policy, in images a second relative to vanilla."""
    figure, axes = canvas(_SIZE, "Images per second, relative to vanilla")
    for place, bar in enumerate(bars):
        axes.barh(place, bar.value, color=colour(bar.name), height=0.62)
        axes.plot([bar.low, bar.high], [place, place], color=INK, linewidth=1.4, solid_capstyle="butt")
        if bar.limit is not None and bar.limit > 1.001:
            axes.plot([bar.limit] * 2, [place - 0.38, place + 0.38], color=INK, linewidth=1.4, linestyle=":")
        furthest = max(bar.value, bar.high, bar.limit or 0)
        axes.annotate(
            f"{bar.value:.2f}×", (furthest, place), (8, 0), textcoords="offset points", va="center", weight="bold"
        )
    axes.set_yticks(range(len(bars)), [bar.name for bar in bars])
    axes.invert_yaxis()
    axes.set_xlim(0, 1.16 * max(max(bar.value, bar.high, bar.limit or 0) for bar in bars))
    axes.grid(visible=False, axis="y")
    footnote(figure, "thin line: range over slices of the run · dotted: bound from its own hits")
    save(figure, path)


def latency_cdf(latencies_s: Mapping[str, Sequence[float]], path: Path, note: str) -> None:
    figure, axes = canvas(_SIZE, "How long requests take")
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


def hit_rate(hits: Mapping[str, Sequence[bool]], path: Path, window: int = 100) -> None:
    """Over the requests in arrival order, as a mean over the last ``window`` of them; of those that ever hit."""
    figure, axes = canvas(_WIDE, "Share of requests that start from something painted before")
    ends = []
    for name, values in hits.items():
        if not any(values):
            continue
        rates = _running_mean(np.array(values, dtype=float), window)
        shown = slice(min(window, len(rates)) // 4, None)  # the first few say nothing
        axes.plot(np.arange(1, len(rates) + 1)[shown], rates[shown], color=colour(name), linewidth=2)
        ends.append((name, len(rates), rates[-1]))
    axes.set_ylim(0, 1.02)
    label_ends(axes, ends)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_xlabel(f"requests (mean over the last {window})")
    save(figure, path)


def frontier(points: Sequence[Point], path: Path) -> None:
    """Quality against throughput. Points of one policy at several α are joined; so are vanilla and the small variant,
    by what any random mix of the two would reach."""
    figure, axes = canvas(_SIZE, "Quality against throughput")
    by_name: dict[str, list[Point]] = {}
    for point in points:
        by_name.setdefault(point.name, []).append(point)
    for name, own in by_name.items():
        own.sort(key=lambda point: point.throughput)
        axes.plot(
            [p.throughput for p in own], [p.quality for p in own], "o-", color=colour(name), markersize=8, linewidth=2
        )
        for point in own:
            axes.plot([point.throughput] * 2, [point.low, point.high], color=colour(name), linewidth=1.2)
    axes.margins(x=0.16, y=0.14)
    _label_points(axes, points)
    if "vanilla" in by_name and "small" in by_name:
        _draw_mix(axes, by_name["vanilla"][0], by_name["small"][0])
    axes.set_xlabel("images per second, relative to vanilla")
    axes.set_ylabel("attribute accuracy, relative to vanilla")
    save(figure, path)


def _label_points(axes: Any, points: Sequence[Point]) -> None:
    """Above to the right; below where a neighbour is named there already."""
    width, height = np.ptp(axes.get_xlim()), np.ptp(axes.get_ylim())
    named: list[Point] = []
    for point in points:
        near = any(
            abs(point.throughput - other.throughput) < 0.12 * width
            and abs(point.quality - other.quality) < 0.05 * height
            for other in named
        )
        label = point.name if point.alpha is None else f"{point.name} α={point.alpha:g}"
        _write(axes, label, (point.throughput, point.quality), (9, -13 if near else 10), INK)
        named.append(point)


def _draw_mix(axes: Any, large: Point, small: Point) -> None:
    """A share of the requests to the small variant: quality and time per image mix linearly, throughput does not."""
    share = np.linspace(0, 1, 60)
    throughput = 1 / ((1 - share) / large.throughput + share / small.throughput)
    quality = (1 - share) * large.quality + share * small.quality
    axes.plot(throughput, quality, color=PALE, linewidth=1.2, linestyle="--", zorder=0)
    axes.annotate("any random mix", (throughput[36], quality[36]), (0, -14), textcoords="offset points", color=PALE)


def step_curves(curves: Mapping[str, Mapping[int, float]], path: Path) -> None:
    """Share of faultless pictures by number of steps, a line a variant."""
    figure, axes = canvas(_SIZE, "Faultless pictures by number of steps")
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


# What plots have in common --------------------------------------------------------------------------------------


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
        _write(axes, name, (x, y), (8, 0), colour(name))
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


def _write(axes: Any, text: str, at: tuple[float, float], offset: tuple[float, float], ink: str, **font: Any) -> None:
    """With a halo, so that it can be read across lines."""
    halo = [withStroke(linewidth=3, foreground=PAPER)]
    axes.annotate(text, at, offset, textcoords="offset points", va="center", color=ink, path_effects=halo, **font)


def _label_curves(axes: Any, ordered: Mapping[str, np.ndarray]) -> None:
    """Names beside distribution curves: from the fastest at the top to the slowest at the bottom, they never meet."""
    fastest_first = sorted(ordered, key=lambda name: float(np.median(ordered[name])))
    for number, name in enumerate(fastest_first):
        height = 0.9 - 0.8 * number / max(len(ordered) - 1, 1)
        x = float(np.quantile(ordered[name], height))
        _write(axes, name, (x, height), (8, 0), colour(name), weight="bold")


def _running_mean(values: np.ndarray, window: int) -> np.ndarray:
    sums = np.concatenate([[0.0], np.cumsum(values)])
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - window, 0)
    return (sums[ends] - sums[starts]) / (ends - starts)


def footnote(figure: Any, text: str) -> None:
    figure.supxlabel(text, fontsize=9.5, color=PALE, x=0.01, ha="left")


def save(figure: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=200, facecolor=PAPER)
    plt.close(figure)
