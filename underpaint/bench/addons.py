"""``underpaint bench addons``: what LoRAs cost, as ratios of times in one run.

``lora_step_overhead``: 16 requests at once, of which 8 pairs have 8 different LoRAs of rank 16, against the same 16
without; the milliseconds from first to last step, by what the replies say. ``workloads``: requests with so many
ControlNets and LoRAs (``0C1L`` …) against bare ones, one at a time, everything in memory; rounds alternate, and medians
over the rounds are reported. The LoRAs are random: how fast they run does not depend on what they hold.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
from safetensors.numpy import save_file

from underpaint.addons.layout import LoraLayout

DISTINCT, REQUESTS, RANK = 8, 16, 16
WORKLOADS: Mapping[str, int] = {"0C0L": 0, "0C1L": 1, "0C2L": 2}  # LoRAs of a request


@dataclass(frozen=True)
class Painted:
    """What a reply says of its time: milliseconds of denoising and in all; and whether its LoRAs joined at step 0."""

    denoise_ms: float
    total_ms: float
    joined_at_once: bool


Paint = Callable[[int, str], Painted]  # a running number, and the LoRAs as the request names them


@dataclass(frozen=True)
class Report:
    """Ratios to the same without LoRAs, 1 where they cost nothing; ``overhead`` is 0 there."""

    overhead: float
    overheads: tuple[float, ...]
    latency_ratios: Mapping[str, float]


def write_random_loras(folder: Path, layout: LoraLayout, count: int = DISTINCT, rank: int = RANK) -> list[str]:
    """Files of LoRAs for the layers of attention, far too weak to be seen; their names."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"bench-{i}" for i in range(count)]
    for seed, name in enumerate(names):
        draw = np.random.default_rng(seed)
        tensors = {}
        for layer in layout.layers[: layout.narrow]:
            stem = f"unet.{layer.name}"
            tensors[f"{stem}.lora_A.weight"] = draw.normal(size=(rank, layer.inputs)).astype(np.float16)
            tensors[f"{stem}.lora_B.weight"] = (1e-3 * draw.normal(size=(layer.outputs, rank))).astype(np.float16)
        save_file(tensors, folder / f"{name}.safetensors", {"underpaint.base": layout.base})
    return names


def measure(paint: Paint, loras: Sequence[str], rounds: int, tell: Callable[[str], None]) -> Report:
    """Alternate everything, ``rounds`` times.

    Raises:
        RuntimeError: LoRAs that should be in memory joined late, so that what was measured is something else.
    """
    _warm(paint, loras)
    overheads: list[float] = []
    latencies: dict[str, list[float]] = {name: [] for name in WORKLOADS}
    for number in range(rounds):
        tell(f"round {number + 1} of {rounds}")
        bare = _batch(paint, [""] * REQUESTS)
        mixed = _batch(paint, [loras[i % len(loras)] for i in range(REQUESTS)])
        overheads.append(mixed / bare - 1)
        for name, count in WORKLOADS.items():
            latencies[name].append(_checked(paint(number, ",".join(loras[:count]))).total_ms)
    bare_ms = median(latencies["0C0L"])
    ratios = {name: median(times) / bare_ms for name, times in latencies.items()}
    return Report(median(overheads), tuple(overheads), ratios)


def to_json(report: Report) -> dict[str, object]:
    """As the figures are to be reported."""
    workloads = {name: {"latency_ratio": ratio} for name, ratio in report.latency_ratios.items()}
    return {"workloads": workloads, "lora_step_overhead": report.overhead, "overheads_by_round": list(report.overheads)}


def _warm(paint: Paint, loras: Sequence[str]) -> None:
    for number, name in enumerate(["", *loras]):
        paint(number, name)


def _batch(paint: Paint, wishes: Sequence[str]) -> float:
    """Mean milliseconds of denoising of requests that come at the same time."""
    with ThreadPoolExecutor(len(wishes)) as pool:
        painted = list(pool.map(lambda each: _checked(paint(*each)), enumerate(wishes)))
    return float(np.mean([each.denoise_ms for each in painted]))


def _checked(painted: Painted) -> Painted:
    if not painted.joined_at_once:
        raise RuntimeError("a LoRA that was loaded before joined late; is lora_memory_mb too small?")
    return painted
