"""``underpaint bench addons``: what LoRAs and ControlNets cost, as ratios of times in one run.

``lora_step_overhead``: 16 requests at once, of which 8 pairs have 8 different LoRAs of rank 16, against the same 16
without; the milliseconds from first to last step, by what the replies say. ``workloads``: requests with so many
ControlNets and LoRAs (``2C1L`` …). ``latency_ratio``: one request at a time against a bare one, everything in memory.
``throughput_ratio_to_serial`` and ``…_to_diffusers``: pictures a second of many requests at once, against the same
requests one after the other without a server (see ``alone``). Everything alternates, round by round, and medians
over the rounds are reported. The LoRAs are random: how fast they run does not depend on what they hold.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median

import numpy as np
from safetensors.numpy import save_file

from underpaint.addons.layout import LoraLayout

DISTINCT, REQUESTS, RANK = 8, 16, 16
AT_ONCE = 8  # requests of a workload
SHAPES = ((0, 0), (1, 0), (0, 1), (1, 1), (2, 2), (3, 2))  # ControlNets and LoRAs of a request
BARE = "0C0L"
_CONVOLUTIONS = ("proj_in", "proj_out")  # of one pixel; diffusers wants their factors shaped so


@dataclass(frozen=True)
class Workload:
    """The add-ons of a request, by name."""

    controlnets: tuple[str, ...] = ()
    loras: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return f"{len(self.controlnets)}C{len(self.loras)}L"


@dataclass(frozen=True)
class Painted:
    """What a reply says of its time: milliseconds of denoising and in all; and whether its LoRAs joined at step 0."""

    denoise_ms: float
    total_ms: float
    joined_at_once: bool


Paint = Callable[[int, Workload], Painted]  # a running number, and the add-ons
Alone = Callable[[int, Workload], float]  # the same without a server: seconds


@dataclass(frozen=True)
class Times:
    """Of one workload, a number a round: ``latency_ms`` of one request; seconds a picture of many at once, and one
    after the other with the same graphs and with diffusers."""

    latency_ms: list[float] = field(default_factory=list)
    served_s: list[float] = field(default_factory=list)
    serial_s: list[float] = field(default_factory=list)
    diffusers_s: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Report:
    """``overhead`` is 0 where LoRAs cost nothing."""

    overhead: float
    overheads: tuple[float, ...]
    times: Mapping[str, Times]


def write_random_loras(
    folder: Path, layout: LoraLayout, count: int = DISTINCT, ranks: Sequence[int] = (RANK,)
) -> list[str]:
    """Files of LoRAs for the layers of attention, far too weak to be seen, of these ranks in turn; their names."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"bench-{i}" for i in range(count)]
    for seed, name in enumerate(names):
        draw, rank = np.random.default_rng(seed), ranks[seed % len(ranks)]
        tensors = {}
        for layer in layout.layers[: layout.narrow]:
            stem, window = f"unet.{layer.name}", (1, 1) if layer.name.endswith(_CONVOLUTIONS) else ()
            down, up = draw.normal(size=(rank, layer.inputs)), 1e-3 * draw.normal(size=(layer.outputs, rank))
            tensors[f"{stem}.lora_A.weight"] = down.reshape(*down.shape, *window).astype(np.float16)
            tensors[f"{stem}.lora_B.weight"] = up.reshape(*up.shape, *window).astype(np.float16)
        save_file(tensors, folder / f"{name}.safetensors", {"underpaint.base": layout.base})
    return names


def workloads(controlnets: Sequence[str], loras: Sequence[str]) -> list[Workload]:
    """Those of the published comparison, with the first of these."""
    return [Workload(tuple(controlnets[:few]), tuple(loras[:many])) for few, many in SHAPES]


def measure(
    paint: Paint,
    serial: Alone,
    diffusers: Alone,
    controlnets: Sequence[str],
    loras: Sequence[str],
    rounds: int,
    tell: Callable[[str], None],
) -> Report:
    """Alternate everything, ``rounds`` times, after each workload and batch once: the first batches of a server fetch
    the memory that the next ones use again, those with LoRAs the more.

    Raises:
        RuntimeError: LoRAs that should be in memory joined late, so that what was measured is something else.
    """
    kinds = workloads(controlnets, loras)
    for number, workload in enumerate([*kinds, *(Workload(loras=(name,)) for name in loras)]):
        paint(number, workload)
    bare, mixed = [Workload()] * REQUESTS, [Workload(loras=(loras[i % len(loras)],)) for i in range(REQUESTS)]
    for wishes in (bare, mixed):
        _batch(paint, wishes)
    overheads: list[float] = []
    times = {workload.name: Times() for workload in kinds}
    for number in range(rounds):
        tell(f"round {number + 1} of {rounds}: LoRAs in a batch")
        without, _ = _batch(paint, bare)
        adapted, _ = _batch(paint, mixed)
        overheads.append(adapted / without - 1)
        for workload in kinds:
            tell(f"round {number + 1} of {rounds}: {workload.name}")
            mine = times[workload.name]
            mine.latency_ms.append(_checked(paint(number, workload)).total_ms)
            mine.served_s.append(_batch(paint, [workload] * AT_ONCE)[1] / AT_ONCE)
            mine.serial_s.append(serial(number, workload))
            mine.diffusers_s.append(diffusers(number, workload))
    return Report(median(overheads), tuple(overheads), times)


def to_json(report: Report) -> dict[str, object]:
    """As the figures are to be reported, with the times that they were made of."""
    bare_ms = median(report.times[BARE].latency_ms)
    figures = {
        name: {
            "latency_ratio": median(times.latency_ms) / bare_ms,
            "throughput_ratio_to_serial": median(times.serial_s) / median(times.served_s),
            "throughput_ratio_to_diffusers": median(times.diffusers_s) / median(times.served_s),
            **asdict(times),
        }
        for name, times in report.times.items()
    }
    overheads = list(report.overheads)
    return {"workloads": figures, "lora_step_overhead": report.overhead, "overheads_by_round": overheads}


def _batch(paint: Paint, wishes: Sequence[Workload]) -> tuple[float, float]:
    """Requests that come at the same time: their mean milliseconds of denoising, and the seconds until all are done."""
    began = time.perf_counter()
    with ThreadPoolExecutor(len(wishes)) as pool:
        painted = list(pool.map(lambda each: _checked(paint(*each)), enumerate(wishes)))
    return float(np.mean([each.denoise_ms for each in painted])), time.perf_counter() - began


def _checked(painted: Painted) -> Painted:
    if not painted.joined_at_once:
        raise RuntimeError("a LoRA that was loaded before joined late; is lora_memory_mb too small?")
    return painted
