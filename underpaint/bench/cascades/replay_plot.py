"""A replay over the time of its trace, and how long its requests take."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.ticker import PercentFormatter

from underpaint.bench.cascades.replay import OBJECTIVES, Course, course
from underpaint.bench.cascades.replay_report import Record
from underpaint.bench.common.plots import INK, PALE, colour, footnote, label_ends, latency_cdf, panels, save


def plot(record: Record, out: Path) -> None:
    replay, seconds = record.replay, record.schedule.seconds
    limit_s = OBJECTIVES[0] * replay.yardstick.unloaded_s
    courses = {
        policy: course(replay.replies_of(policy), len(replay.of(policy)), seconds, limit_s)
        for policy in replay.policies
    }
    _over_time(courses, record, out / "replay.png")
    waits = {
        policy: [reply.latency_s for reply in replay.replies_of(policy) if reply.answered] for policy in replay.policies
    }
    if all(waits.values()):
        note = f"answered requests; objective: {limit_s:.2f} s, {OBJECTIVES[0]}× the large model when nobody else asks"
        latency_cdf(waits, out / "replay_latency.png", note)


def _over_time(courses: Mapping[str, Course], record: Record, path: Path) -> None:
    """Three panels: how much is asked for, how long it takes, and how much of it is in time."""
    replay = record.replay
    peak = max(record.schedule.rates_per_s) / replay.yardstick.sustained_per_s
    title = f"Demand that peaks at {peak:.2g}× of what the large model sustains"
    figure, (demand, latency, attainment) = panels((10.0, 9.0), title, 3)
    _draw_demand(demand, courses, record)
    for policy, own in courses.items():
        latency.plot(own.middles_s, own.latency_p99_s, color=colour(policy), linewidth=2)
        latency.plot(own.middles_s, own.latency_p50_s, color=colour(policy), linewidth=1.2, linestyle="--")
        attainment.plot(own.middles_s, own.attainment, color=colour(policy), linewidth=2)
    for times in OBJECTIVES:
        latency.axhline(times * replay.yardstick.unloaded_s, color=INK, linewidth=1, linestyle=":")
    latency.set_yscale("log")
    latency.set_ylabel("seconds")
    attainment.set_ylim(0, 1.04)
    attainment.yaxis.set_major_formatter(PercentFormatter(1.0))
    attainment.set_ylabel(f"within {OBJECTIVES[0]}×")
    attainment.set_xlabel("seconds")
    label_ends(attainment, [(policy, own.middles_s[-1], _last(own.attainment)) for policy, own in courses.items()])
    footnote(figure, f"middle: 99th percentile, dashed median, dotted {OBJECTIVES[0]}× and {OBJECTIVES[1]}× objectives")
    save(figure, path)


def _draw_demand(axes: Any, courses: Mapping[str, Course], record: Record) -> None:
    rates = record.schedule.rates_per_s
    edges = np.arange(len(rates) + 1) * record.schedule.interval_s
    axes.stairs(rates, edges, color=PALE, fill=True, alpha=0.25)
    for own in list(courses.values())[:1]:  # the same requests for every policy
        axes.plot(own.middles_s, own.offered_per_s, color=PALE, linewidth=1.2)
    sustained = record.replay.yardstick.sustained_per_s
    axes.axhline(sustained, color=INK, linewidth=1.2, linestyle="--")
    axes.annotate(
        "what the large model sustains", (0, sustained), (4, 5), textcoords="offset points", color=INK, fontsize=10.5
    )
    axes.set_ylim(bottom=0)
    axes.set_ylabel("requests a second")


def _last(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known[-1]) if len(known) else 0.0
