"""A plot of a calibration: what is kept of full quality, by similarity, for every skip."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib import colormaps

from underpaint.bench.calibration.pairs import SYSTEMS, Measurements, bins, isotonic
from underpaint.bench.common.plots import INK, PALE, footnote, panels, save
from underpaint.policies import Calibration

_BINS = 24
_SCALES = dict.fromkeys(SYSTEMS, "of two prompts") | {"modm": "of the prompt to a picture"}


def quality_by_similarity(measured: Measurements, calibration: Calibration, path: Path) -> None:
    """A panel a system."""
    title = "What is kept of full quality, by similarity"
    figure, axes = panels((8.5, 11.0), title, len(SYSTEMS), shared=False)
    for panel, system in zip(axes, SYSTEMS, strict=True):
        _draw(panel, measured, system, calibration)
    kept = f"α = {calibration.alpha:g} over {calibration.over}"
    footnote(figure, f"dots: bins · lines: made to rise · dashed: {kept} · circles: thresholds")
    save(figure, path)


def _draw(axes: Any, measured: Measurements, system: str, calibration: Calibration) -> None:
    cut = bins(measured.pairs.get(system, ()), _BINS)
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
    axes.axhline(calibration.alpha, color=INK, linewidth=1, linestyle="--")
    for row in getattr(calibration, system).rows:
        axes.plot(row.similarity, calibration.alpha, "o", markerfacecolor="none", markeredgecolor=INK)
    axes.set_ylabel(system)
    axes.set_xlabel(f"similarity {_SCALES[system]}", fontsize=10.5)
