"""A plot of a calibration: what is kept of full quality, by similarity, for every skip."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib import colormaps

from underpaint.bench.calibrate import SYSTEMS, Measurements, bins, isotonic, thresholds
from underpaint.bench.plots import INK, PALE, footnote, panels, save

_SCALES = {"modm": "of the prompt to a picture", "nirvana": "of two prompts", "retrieval": "of two prompts"}


def quality_by_similarity(measured: Measurements, alpha: float, path: Path) -> None:
    """A panel a system."""
    title = "What is kept of full quality, by similarity"
    figure, axes = panels((8.5, 11.0), title, len(SYSTEMS), shared=False)
    for panel, system in zip(axes, SYSTEMS, strict=True):
        _draw(panel, measured, system, alpha)
    footnote(figure, f"dots: bins · lines: made to rise · dashed: α = {alpha:g} · circles: thresholds")
    save(figure, path)


def _draw(axes: Any, measured: Measurements, system: str, alpha: float) -> None:
    cut = bins(measured.pairs[system])
    if not cut:
        axes.annotate(f"{system}: too few pairs", (0.5, 0.5), xycoords="axes fraction", ha="center", color=PALE)
        return
    similarities = [each.similarity for each in cut]
    skips = sorted(cut[0].by_skip)
    for number, skip in enumerate(skips):
        shade = colormaps["viridis"](0.9 * number / max(len(skips) - 1, 1))
        ratios = [each.by_skip[skip] / max(each.full, 1e-9) for each in cut]
        smooth = isotonic(ratios, [each.pairs for each in cut])
        axes.plot(similarities, ratios, ".", color=shade, alpha=0.4)
        axes.plot(similarities, smooth, color=shade, linewidth=1.8)
        end = (similarities[-1], smooth[-1])
        axes.annotate(f"{skip:.0%}", end, (7, 0), textcoords="offset points", va="center", color=shade, fontsize=9.5)
    axes.axhline(alpha, color=INK, linewidth=1, linestyle="--")
    for row in thresholds(measured.pairs[system], alpha).rows:
        axes.plot(row.similarity, alpha, "o", markerfacecolor="none", markeredgecolor=INK)
    axes.set_ylabel(system)
    axes.set_xlabel(f"similarity {_SCALES[system]}", fontsize=10.5)
