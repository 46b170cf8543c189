"""How fast variants are: alone, at several concurrencies, and in each other's company."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from underpaint.bench.demand.load import Cycle, Window, closed_loop, rate_per_s
from underpaint.client.pictures import Picture
from underpaint.control.profile import Latency, VariantProfile
from underpaint.deployment import Variant

_RAMP = 0.3  # of the time of a measurement, in which workers join one by one
_RANKS = 41  # of the spread
_TOGETHER = 4  # images of each variant at a time, to see how they share the machine
_CROWDED = 1.3  # times the cores that there are must be wanted, for that to show
_PARTS = ("text_encoder", "unet", "vae_decoder")

Paint = Callable[[str, int], Picture]  # from noise, by a variant, a running number


@dataclass(frozen=True)
class Effort:
    """How thoroughly a profile is measured. ``cpu_s``: what it has cost so far; None where that cannot be seen."""

    concurrencies: Sequence[int] = (1, 2, 4, 8, 16)
    seconds: float = 6.0
    cpu_s: Callable[[], float] | None = None


def measure_variant(
    paint: Paint, variant: Variant, repository: Path, effort: Effort, tell: Callable[[], None]
) -> VariantProfile:
    """At each concurrency for so many seconds, at the variant's own default steps."""
    paint(variant.name, 0)  # what is loaded or allocated with the first image is no part of it
    latencies: list[Latency] = []
    spread: tuple[float, ...] = ()
    for concurrency in effort.concurrencies:
        window = Window(effort.seconds, ramp_s=_RAMP * effort.seconds if concurrency > 1 else 0.0)
        numbers: list[int] = []

        def work(number: int, numbers: list[int] = numbers) -> None:
            numbers.append(number)
            paint(variant.name, number)

        before_s = effort.cpu_s() if effort.cpu_s else 0.0
        cycles = closed_loop(work, concurrency, window)
        spent_s = effort.cpu_s() - before_s if effort.cpu_s else None
        latencies.append(latency(cycles, concurrency, spent_s and spent_s / len(numbers)))
        if concurrency == 1:
            spread = spread_of(cycles)
        tell()
    return VariantProfile(
        name=variant.name,
        steps=variant.num_inference_steps,
        latencies=tuple(latencies),
        load_s=round(load_s(repository, variant.name), 4),
        weights=variant.weights,
        spread=spread,
    )


def measure_together(paint: Paint, variants: Sequence[str], effort: Effort) -> list[float]:
    """Images a second of each variant, while so many of every one are painted."""

    def rate(variant: str) -> float:
        window = Window(effort.seconds, ramp_s=_RAMP * effort.seconds)
        return rate_per_s(closed_loop(lambda number: paint(variant, number), _TOGETHER, window))

    with ThreadPoolExecutor(len(variants)) as pool:
        return list(pool.map(rate, variants))


def sharing(variants: Sequence[VariantProfile], together_per_s: Sequence[float], cores: int) -> list[VariantProfile]:
    """The profiles, and how much each slows down in the company of the others (``VariantProfile.yields``)."""
    crowding = sum(each.cores(_TOGETHER) or 0.0 for each in variants) / cores
    if crowding < _CROWDED:
        return list(variants)
    slower = [_TOGETHER / each.seconds(_TOGETHER) / rate for each, rate in zip(variants, together_per_s, strict=True)]
    return [
        replace(each, yields=round(max(0.0, (times - 1) / (crowding - 1)), 4))
        for each, times in zip(variants, slower, strict=True)
    ]


def latency(cycles: Sequence[Cycle], concurrency: int, cpu_s: float | None = None) -> Latency:
    """So many images at a time take as long together as it takes to make that many; percentiles are of requests."""
    p50, p95, p99 = np.percentile([cycle.end_s - cycle.start_s for cycle in cycles], [50, 95, 99])
    mean_s = concurrency / rate_per_s(cycles)
    figures = (None if each is None else round(float(each), 5) for each in (p50, p95, p99, cpu_s))
    return Latency(concurrency, round(mean_s, 5), *figures)


def spread_of(cycles: Sequence[Cycle]) -> tuple[float, ...]:
    """How much the times of single images differ, see ``VariantProfile.spread``."""
    times_s = np.array([cycle.end_s - cycle.start_s for cycle in cycles])
    return tuple(np.percentile(times_s / times_s.mean(), np.linspace(0, 100, _RANKS)).round(4).tolist())


def load_s(repository: Path, variant: str) -> float:
    """Seconds until the weights of a variant's parts are read and ready to run."""
    import onnxruntime as ort

    started = time.perf_counter()
    for part in _PARTS:
        ort.InferenceSession(
            str(repository / f"{variant}_{part}" / "1" / "model.onnx"), providers=["CPUExecutionProvider"]
        )
    return time.perf_counter() - started
