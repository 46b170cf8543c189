"""The pictures of ``underpaint bench policies``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.ticker import PercentFormatter

from underpaint.bench.common.plots import INK, PALE, SIZE, canvas, colour, footnote, label_ends, save, write

_WIDE = (9.5, 5.0)


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


def throughput_bars(bars: Sequence[Bar], path: Path) -> None:
    """A bar a policy, in images a second relative to vanilla."""
    figure, axes = canvas(SIZE, "Images per second, relative to vanilla")
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
    figure, axes = canvas(SIZE, "Quality against throughput")
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
        write(axes, label, (point.throughput, point.quality), (9, -13 if near else 10), INK)
        named.append(point)


def _draw_mix(axes: Any, large: Point, small: Point) -> None:
    """A share of the requests to the small variant: quality and time per image mix linearly, throughput does not."""
    share = np.linspace(0, 1, 60)
    throughput = 1 / ((1 - share) / large.throughput + share / small.throughput)
    quality = (1 - share) * large.quality + share * small.quality
    axes.plot(throughput, quality, color=PALE, linewidth=1.2, linestyle="--", zorder=0)
    axes.annotate("any random mix", (throughput[36], quality[36]), (0, -14), textcoords="offset points", color=PALE)


def _running_mean(values: np.ndarray, window: int) -> np.ndarray:
    sums = np.concatenate([[0.0], np.cumsum(values)])
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - window, 0)
    return (sums[ends] - sums[starts]) / (ends - starts)
