"""Measure denoising UNets of full size on a GPU, bare and under Triton, and FAISS; results as JSON.

    python client/gpu_bench/run.py --out gpu_bench.json
    python client/gpu_bench/run.py --miniature --device cpu --out /tmp/dry.json      # a dry run, anywhere

Every figure is images (rows of the UNet's batch) a second, of one denoising step. The engines take turns on the same
weights, sizes and batches in one run, so that their ratios mean something. Batches from 1 to 16 at one size say what
step batching gives: requests of any steps share such a call.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort
import torch
import unets
from unets import Architecture, UNetGraph

from underpaint.bench.machine import Machine, now, versions
from underpaint.build.signatures import Signature, TensorSpec
from underpaint.triton import model_config as mc

_ENGINES = ("onnxruntime", "triton", "torch", "torch.compile")
_MODEL = "unet"
Call = Callable[[int], object]  # one denoising step of so many rows


@dataclass(frozen=True)
class Figure:
    """``seconds``: of one call, the median of ``repeats``; nan does not occur: what fails ends the run."""

    network: str
    engine: str
    size: int
    batch: int
    seconds: float
    repeats: int

    @property
    def images_per_s(self) -> float:
        return self.batch / self.seconds


@dataclass(frozen=True)
class Plan:
    """What is measured. ``sizes`` in pixels, a side; ``seconds``: for how long at least, each."""

    networks: Sequence[Architecture]
    engines: Sequence[str]
    sizes: Sequence[int]
    batches: Sequence[int]
    seconds: float
    device: str


def measure(plan: Plan) -> Iterator[Figure]:
    for network in plan.networks:
        for size in plan.sizes:
            with tempfile.TemporaryDirectory() as folder:
                unets.to_onnx(
                    unets.make(network, "cpu" if plan.device == "cpu" else "cuda"), network, size, Path(folder)
                )
                for engine in plan.engines:
                    with _opened(engine, network, size, Path(folder), plan) as call:
                        for batch in plan.batches:
                            yield _timed(call, network.name, engine, size, batch, plan.seconds)


def _timed(call: Call, network: str, engine: str, size: int, batch: int, seconds: float) -> Figure:
    for _ in range(2):  # compilation, algorithms, memory
        call(batch)
    took: list[float] = []
    while sum(took) < seconds or len(took) < 3:
        began = time.perf_counter()
        call(batch)
        took.append(time.perf_counter() - began)
    figure = Figure(network, engine, size, batch, statistics.median(took), len(took))
    print(f"{network:5} {engine:13} {size:5} px, batch {batch:2}: {figure.images_per_s:9.2f} images/s", file=sys.stderr)
    return figure


def _opened(engine: str, network: Architecture, size: int, folder: Path, plan: Plan):
    graph = unets.make(network, plan.device)
    given = {batch: unets.inputs(graph, network, size, batch) for batch in plan.batches}
    if engine == "onnxruntime":
        return nullcontext(_onnxruntime(folder, given, plan.device))
    if engine == "triton":
        return _triton(folder, given, plan.device)
    return nullcontext(_torch(graph, given, plan.device, compiled=engine == "torch.compile"))


def _onnxruntime(folder: Path, given: dict[int, dict[str, torch.Tensor]], device: str) -> Call:
    provider = "CUDAExecutionProvider" if device == "cuda" else "CPUExecutionProvider"
    session = ort.InferenceSession(folder / "model.onnx", providers=[provider])
    if provider not in session.get_providers():
        raise SystemExit("onnxruntime has no CUDA here: pip install onnxruntime-gpu, and nothing else of that name")
    arrays = {batch: {name: each.numpy() for name, each in tensors.items()} for batch, tensors in given.items()}
    return lambda batch: session.run(["noise_pred"], arrays[batch])


def _torch(graph: UNetGraph, given: dict[int, dict[str, torch.Tensor]], device: str, compiled: bool) -> Call:
    run = torch.compile(graph) if compiled else graph
    there = {batch: [each.to(device) for each in tensors.values()] for batch, tensors in given.items()}

    @torch.inference_mode()
    def call(batch: int) -> object:
        return run(*there[batch]).cpu()  # which waits for the GPU, and is what the others return too

    return call


@contextmanager
def _triton(folder: Path, given: dict[int, dict[str, torch.Tensor]], device: str) -> Iterator[Call]:
    """The same graph under the embedded tritonserver, called over gRPC with tensors in the message."""
    import tritonclient.grpc as grpcclient

    from underpaint.server import EmbeddedServer, ServerOptions

    with tempfile.TemporaryDirectory() as parent:
        repository = Path(parent) / "repository"
        (repository / _MODEL).mkdir(parents=True)
        (repository / _MODEL / "1").symlink_to(folder)
        config = _config(Signature.read(folder / "model.onnx"), max(given), device)
        (repository / _MODEL / "config.pbtxt").write_text(mc.to_text(config))
        options = ServerOptions(repository, http_port=0, grpc_port=0, metrics_port=0, store=Path(parent) / "store")
        with EmbeddedServer(options) as server, grpcclient.InferenceServerClient(server.grpc_url) as client:
            asked = {batch: [_input(grpcclient, name, each) for name, each in t.items()] for batch, t in given.items()}
            yield lambda batch: client.infer(_MODEL, asked[batch]).as_numpy("noise_pred")


def _config(signature: Signature, batch: int, device: str) -> mc.ModelConfig:
    def declared(spec: TensorSpec) -> mc.ModelInput:
        return mc.model_input(spec.name, spec.dtype, spec.row) if spec.row else mc.scalar_per_row(spec.name, spec.dtype)

    outputs = [mc.model_output(each.name, each.dtype, each.row) for each in signature.outputs.values()]
    kind, threads = ("gpu", 1) if device == "cuda" else ("cpu", torch.get_num_threads())
    inputs = [declared(each) for each in signature.inputs.values()]
    return mc.onnx_model(_MODEL, inputs, outputs, batch, threads=threads, kind=kind, dynamic_batching=False)


def _input(grpcclient, name: str, tensor: torch.Tensor):
    array = tensor.numpy().reshape(len(tensor), -1) if tensor.ndim == 1 else tensor.numpy()
    asked = grpcclient.InferInput(name, array.shape, "FP32")
    asked.set_data_from_numpy(array)
    return asked


# FAISS --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Lookup:
    """Of the 8 nearest among ``entries`` vectors of ``dimensions``; milliseconds of a call of ``batch`` queries."""

    index: str
    device: str
    entries: int
    dimensions: int
    batch: int
    p50_ms: float
    p99_ms: float


def lookups(entries: int, dimensions: int, device: str, repeats: int) -> Iterator[Lookup]:
    import faiss

    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((entries, dimensions), np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    index = faiss.IndexFlatIP(dimensions)
    if device == "cuda":
        if not hasattr(faiss, "StandardGpuResources"):
            raise SystemExit("this faiss has no GPU: pip install faiss-gpu-cu12, and not faiss-cpu beside it")
        index = faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), 0, index)
    index.add(vectors)
    for batch in (1, 16):
        took = []
        for _ in range(repeats):
            queries = vectors[rng.integers(0, entries, batch)]
            began = time.perf_counter()
            index.search(queries, 8)
            took.append((time.perf_counter() - began) * 1e3)
        p50, p99 = (float(each) for each in np.quantile(took, (0.5, 0.99)))
        yield Lookup("flat inner product", device, entries, dimensions, batch, p50, p99)


# The command --------------------------------------------------------------------------------------------------------


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="JSON file")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--miniature", action="store_true", help="tiny networks: a dry run that measures nothing")
    parser.add_argument("--engines", default=",".join(_ENGINES), help="default: %(default)s")
    parser.add_argument("--networks", default="sd15,sdxl", help="default: %(default)s")
    parser.add_argument("--seconds", type=float, default=5.0, help="for each figure, at least; default: %(default)g")
    args = parser.parse_args(argv)
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("torch sees no GPU here; a dry run is --miniature --device cpu")
    plan = Plan(
        networks=[
            n
            for n in (unets.MINIATURES if args.miniature else (unets.SD15, unets.SDXL))
            if n.name in args.networks.split(",")
        ],
        engines=args.engines.split(","),
        sizes=(64,) if args.miniature else (512, 1024),
        batches=(1, 2) if args.miniature else (1, 2, 4, 8, 16),
        seconds=0.01 if args.miniature else args.seconds,
        device=args.device,
    )
    unknown = set(plan.engines) - set(_ENGINES)
    if unknown or not plan.networks:
        parser.error(f"engines: {', '.join(_ENGINES)}; networks: sd15, sdxl")
    began = now()
    figures = list(measure(plan))
    found = list(lookups(2000 if args.miniature else 1_000_000, 64 if args.miniature else 768, args.device, 50))
    report = {
        "measured_at": began,
        "machine": {**asdict(Machine.here()), "gpu": torch.cuda.get_device_name() if args.device == "cuda" else None},
        "versions": versions(("underpaint", "torch", "diffusers", "onnxruntime", "onnxruntime-gpu", "nvidia-pytriton")),
        "miniature": args.miniature,
        "unets": [{**asdict(each), "images_per_s": each.images_per_s} for each in figures],
        "faiss": [asdict(each) for each in found],
    }
    args.out.write_text(json.dumps(report, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
