"""What ``underpaint bench denoiser`` leaves behind: all of a run as JSON, and a few lines for people."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from underpaint.bench.common.machine import Machine
from underpaint.bench.common.report import about
from underpaint.bench.demand.load import rate_per_s
from underpaint.bench.denoising.denoiser import CONCURRENCY, Measured, Pace, Summary
from underpaint.bench.denoising.unet import Setup


def to_json(measured: Measured, summary: Summary, pace: Pace, machine: Machine) -> dict[str, Any]:
    """All there is to know of a run of ``bench denoiser``; the figures that count come first."""
    return {
        **asdict(summary),
        "job": {**asdict(measured.job), "rows_per_step": measured.job.rows_per_step, "concurrency": CONCURRENCY},
        "rounds": [
            {
                "images_per_s": round(rate_per_s(each.many), 4),
                "images_per_s_single": round(rate_per_s(each.single), 4),
                "ceiling_images_per_s": _by_setup(each.ceiling_per_s),
            }
            for each in measured.rounds
        ],
        "ceiling_search_images_per_s": _by_setup(measured.search),
        "pace": asdict(pace),
        **about(machine),
    }


def text(measured: Measured, summary: Summary) -> str:
    job = measured.job
    return "\n".join(
        [
            f"{job.variant}, {job.num_inference_steps} steps, {job.rows_per_step} rows a step",
            f"ceiling        {summary.ceiling_images_per_s:7.2f} images/s  bare UNet, {summary.ceiling_setup}",
            f"strongest      {summary.strongest_images_per_s:7.2f} images/s  bare UNet, {summary.strongest_setup}",
            f"{CONCURRENCY} at a time   {summary.images_per_s:7.2f} images/s  efficiency {summary.efficiency:.3f}"
            f" (of the strongest {summary.efficiency_of_strongest:.3f})"
            f"  p50 {summary.latency_ms.p50:.0f} ms, p99 {summary.latency_ms.p99:.0f} ms",
            f"one at a time  {summary.images_per_s_single:7.2f} images/s  efficiency {summary.efficiency_single:.3f}"
            f" (of the strongest {summary.efficiency_single_of_strongest:.3f})"
            f"  p50 {summary.latency_single_ms.p50:.0f} ms, p99 {summary.latency_single_ms.p99:.0f} ms"
            f"  ({summary.efficiency_single_of_lone:.3f} of the bare UNet at {job.rows_per_step} rows a call)",
        ]
    )


def _by_setup(values: Mapping[Setup, float]) -> list[dict[str, float]]:
    return [{**asdict(setup), "images_per_s": round(value, 4)} for setup, value in values.items()]
