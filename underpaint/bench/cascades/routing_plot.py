"""Quality against the share of requests that the large variant paints: scores between chance and the oracle."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.ticker import PercentFormatter

from underpaint.bench.common.plots import GRID, INK, PALE, SIZE, canvas, footnote, save

_NAMED_AT = {"oracle": 0.3, "discriminator": 0.25, "hybrid": 0.45, "router": 0.6, "random": 0.5}  # lines may coincide
_LINES = {"oracle": PALE, "discriminator": "#c8452d", "hybrid": "#8c5fb0", "router": "#2f6fb5", "random": PALE}


def quality_by_deferral(report: Mapping[str, Any], path: Path) -> None:
    """``report``: what ``routing.to_json`` gives."""
    figure, axes = canvas(SIZE, "Pictures without fault, by how many the large variant paints")
    deferral, curves = report["deferral"], report["curves"]["faultless"]
    axes.fill_between(deferral, curves["random"], curves["oracle"], color=GRID, alpha=0.5, zorder=0)
    for name, ink in _LINES.items():
        dashed = "--" if name in ("oracle", "random") else "-"
        axes.plot(deferral, curves[name], dashed, color=ink, linewidth=2 if dashed == "-" else 1.4)
        at = (_NAMED_AT[name], curves[name][deferral.index(_NAMED_AT[name])])
        axes.annotate(name, at, (6, -12), textcoords="offset points", color=INK if ink == PALE else ink)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_xlim(0, 1)
    axes.set_xlabel("share of requests painted by the large variant")
    footnote(figure, f"{report['captions']} captions that no scorer has seen · {report['small']} and {report['large']}")
    save(figure, path)
