"""Measure denoising UNets of full size on a GPU, bare and under Triton, and FAISS; results as JSON.

    python client/gpu_bench/run.py --out gpu_bench.json
    python client/gpu_bench/run.py --miniature --device cpu --out /tmp/dry.json      # a dry run, anywhere

Every figure is images (rows of the UNet's batch) a second, of one denoising step. The engines take turns on the same
weights, sizes and batches in one run, so that their ratios mean something. Batches from 1 to 16 at one size say what
step batching gives: requests of any steps share such a call. The ceiling is what products of large matrices reach on
the device in the same run.

A machine that lacks an engine, and a time that does not suffice, leave figures out and say which; what has been
measured is written down at once.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import engines
import torch
import unets
from engines import Call
from lookups import lookups
from unets import Architecture

from underpaint.bench.common.machine import Machine, now, versions

_PACKAGES = ("underpaint", "torch", "diffusers", "onnxruntime", "onnxruntime-gpu", "nvidia-pytriton", "faiss-gpu-cu12")


@dataclass(frozen=True)
class Figure:
    """``seconds``: of one call, the median of ``repeats``; ``tflop_per_image``: of products and convolutions."""

    network: str
    engine: str
    size: int
    batch: int
    seconds: float
    repeats: int
    tflop_per_image: float

    @property
    def images_per_s(self) -> float:
        return self.batch / self.seconds


@dataclass(frozen=True)
class Plan:
    """What is measured. ``sizes`` in pixels, a side; ``seconds``: for how long at least, each; ``until_s``: on the
    monotonic clock, when nothing more is begun."""

    networks: Sequence[Architecture]
    engines: Sequence[str]
    sizes: Sequence[int]
    batches: Sequence[int]
    seconds: float
    device: str
    until_s: float


class Bench:
    """Carries out a plan. ``figures`` and what was ``left_out``, as far as it has come."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self.left_out: list[dict[str, str]] = []

    def run(self, folder: Path) -> Iterator[Figure]:
        """One network after the other; what is compiled, which takes longest, last of all."""
        plan = self._plan
        lacking = {engine: engines.why_not(engine, plan.device) for engine in plan.engines}
        for engine, why in lacking.items():
            if why:
                self._leave_out(engine, why)
        able = [engine for engine in plan.engines if not lacking[engine]]
        for kind in (lambda engine: engine != "torch.compile", lambda engine: engine == "torch.compile"):
            for network in plan.networks:
                chosen = [engine for engine in able if kind(engine)]
                if chosen:
                    yield from self._measure(network, chosen, folder / network.name)

    def _measure(self, network: Architecture, chosen: Sequence[str], folder: Path) -> Iterator[Figure]:
        plan = self._plan
        graph = unets.make(network, plan.device)
        if set(chosen) & set(engines.EXPORTED) and not folder.exists():
            began = time.monotonic()
            unets.to_onnx(graph, network, plan.sizes, folder)
            print(f"{network.name}: exported in {time.monotonic() - began:.0f} s", file=sys.stderr)
            graph.to(plan.device)
        for size in plan.sizes:
            given = {batch: unets.inputs(graph, network, size, batch) for batch in plan.batches}
            flop = unets.flop(graph, given[min(plan.batches)], plan.device) / min(plan.batches)
            for engine in chosen:
                what = f"{network.name}, {engine}, {size} px"
                if time.monotonic() > plan.until_s:
                    self._leave_out(what, "no time")
                    continue
                try:
                    with engines.opened(engine, graph, folder, given, plan.device) as call:
                        for batch in plan.batches:
                            yield _timed(call, network.name, engine, size, batch, plan.seconds, flop)
                except Exception as error:  # any engine's own; the others are measured all the same
                    self._leave_out(what, f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")

    def _leave_out(self, what: str, why: str) -> None:
        print(f"left out: {what}: {why}", file=sys.stderr)
        self.left_out.append({"what": what, "why": why})


def _timed(call: Call, network: str, engine: str, size: int, batch: int, seconds: float, flop: float) -> Figure:
    for _ in range(2):  # compilation, algorithms, memory
        call(batch)
    took: list[float] = []
    while sum(took) < seconds or len(took) < 3:
        began = time.perf_counter()
        call(batch)
        took.append(time.perf_counter() - began)
    figure = Figure(network, engine, size, batch, statistics.median(took), len(took), flop / 1e12)
    print(f"{network:5} {engine:17} {size:5} px, batch {batch:2}: {figure.images_per_s:9.2f} images/s", file=sys.stderr)
    return figure


def ceiling(device: str, side: int) -> float:
    """FLOP/s of the product of two square matrices, the median of twenty."""
    dtype = torch.float16 if device == "cuda" else torch.float32
    left, right = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    took = []
    for _ in range(25):
        began = time.perf_counter()
        (left @ right)[0, 0].item()  # which waits
        took.append(time.perf_counter() - began)
    return 2 * side**3 / statistics.median(took[5:])


def _row(figure: Figure, figures: Sequence[Figure], reached: float) -> dict[str, Any]:
    """With what it is of the ceiling, and how many times as fast as one row at a time."""
    alike = (each for each in figures if _but_batch(each) == _but_batch(figure))
    first = min(alike, key=lambda each: each.batch)
    return {
        **asdict(figure),
        "images_per_s": figure.images_per_s,
        "ceiling_share": figure.images_per_s * figure.tflop_per_image * 1e12 / reached,
        "over_smallest_batch": figure.images_per_s / first.images_per_s,
    }


def _but_batch(figure: Figure) -> tuple[str, str, int]:
    return figure.network, figure.engine, figure.size


# The command --------------------------------------------------------------------------------------------------------


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="JSON file")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--miniature", action="store_true", help="tiny networks: a dry run that measures nothing")
    parser.add_argument("--engines", default=",".join(engines.ALL), help="default: %(default)s")
    parser.add_argument("--networks", default="sd15,sdxl", help="default: %(default)s")
    parser.add_argument("--seconds", type=float, default=1.5, help="for each figure, at least; default: %(default)g")
    parser.add_argument("--within", type=float, default=480, help="seconds, for all; default: %(default)g")
    args = parser.parse_args(argv)
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("torch sees no GPU here; a dry run is --miniature --device cpu")
    known = unets.MINIATURES if args.miniature else (unets.SD15, unets.SDXL)
    plan = Plan(
        networks=[network for network in known if network.name in args.networks.split(",")],
        engines=args.engines.split(","),
        sizes=(64, 96) if args.miniature else (512, 1024),
        batches=(1, 2) if args.miniature else (1, 2, 4, 8, 16),
        seconds=0.01 if args.miniature else args.seconds,
        device=args.device,
        until_s=time.monotonic() + args.within,
    )
    if set(plan.engines) - set(engines.ALL) or not plan.networks:
        parser.error(f"engines: {', '.join(engines.ALL)}; networks: sd15, sdxl")
    report: dict[str, Any] = {
        "measured_at": now(),
        "machine": {**asdict(Machine.here()), "gpu": torch.cuda.get_device_name() if args.device == "cuda" else None},
        "versions": versions(_PACKAGES),
        "miniature": args.miniature,
        "ceiling_tflop_per_s": ceiling(args.device, 512 if args.miniature else 8192) / 1e12,
    }
    bench, figures = Bench(plan), []
    with tempfile.TemporaryDirectory() as folder:
        for figure in bench.run(Path(folder)):
            figures.append(figure)
            rows = [_row(each, figures, report["ceiling_tflop_per_s"] * 1e12) for each in figures]
            _write(args.out, report | {"unets": rows, "left_out": bench.left_out, "faiss": []})
    try:
        found = list(lookups(*((2000, 64) if args.miniature else (1_000_000, 768)), args.device, 50))
    except (RuntimeError, ImportError) as error:
        found = []
        bench.left_out.append({"what": "FAISS", "why": str(error)})
    rows = [_row(each, figures, report["ceiling_tflop_per_s"] * 1e12) for each in figures]
    _write(args.out, report | {"unets": rows, "left_out": bench.left_out, "faiss": [asdict(each) for each in found]})
    return 0


def _write(path: Path, report: dict[str, Any]) -> None:
    path.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
