"""One component: from a torch module to a version directory, and how far the two agree."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import lcm
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import torch

from underpaint.build.graph import Extent, Graph
from underpaint.build.graph_fusions import FOR_CPU, NONE, Rewrites
from underpaint.build.onnx_graph import finish, fuse_file, trace
from underpaint.build.onnx_weights import store_weights, widen
from underpaint.errors import Internal

WEIGHTS = "model.safetensors"
_WIDENED_COPIES = 6  # of bfloat16 weights: torch's and onnxruntime's as float32, and what the latter casts from
_CUDA = "CUDAExecutionProvider"
# Largest difference to torch, as a share of the largest number, or in steps of 255 for pixels.
_TOLERANCES = {torch.float32: 1e-3, torch.float16: 3e-2, torch.bfloat16: 1e-1}
_PIXEL_TOLERANCES = {torch.float32: 1, torch.float16: 4, torch.bfloat16: 8}


@dataclass(frozen=True)
class Sizes:
    """Which sizes, in pixels, a graph is for: one, or any; ``pixels`` of one latent."""

    sizes: tuple[tuple[int, int], ...]
    pixels: int

    @property
    def open(self) -> bool:
        return len(self.sizes) > 1

    def example(self, graph: Graph, tokens: int) -> Extent:
        """What to trace with: small and not square, where any size goes."""
        if not self.open:
            return Extent(*self.sizes[0], tokens=tokens)
        side = lcm(graph.patch_size, self.pixels * graph.patch_size)
        return Extent(3 * side, 2 * side, tokens=tokens)

    def other(self, graph: Graph, tokens: int) -> Extent:
        """What to compare with: of another batch and, where any size goes, another size."""
        traced = self.example(graph, tokens)
        return Extent(
            traced.height if self.open else traced.width, traced.height, batch=traced.batch + 1, tokens=tokens
        )


def export(
    graph: Graph,
    folder: Path,
    sizes: Sizes,
    tokens: int,
    twins: Callable[[Path, onnx.ModelProto], None] | None = None,
    rewrites: Rewrites = FOR_CPU,
) -> float | None:
    """Write ``model.onnx`` and its weights; returns the largest difference to torch, None where nothing here runs it.

    On a CPU, onnxruntime's own operators are for float32 only, so graphs of half precision are compared without them;
    and no operators at all are for bfloat16: such a graph is compared as if it were float32, where memory allows.

    Args:
        tokens: how many a denoising network is told.
        twins: writes variations of the graph beside it.
        rewrites: into onnxruntime's own operators.

    Raises:
        Internal: the graph does not compute what torch does.
    """
    graph.eval()
    examples = graph.examples(sizes.example(graph, tokens))
    axes = {name: _axes(graph, name, sizes.open) for name in examples}
    program = trace(graph, examples, graph.outputs, axes, graph.patch_size)
    folder.mkdir(parents=True, exist_ok=True)
    store_weights(program, graph, folder / WEIGHTS)
    path = folder / "model.onnx"
    finish(folder, program, graph.outputs, folder / WEIGHTS, twins, rewrites=NONE)
    runs_fused = graph.dtype == torch.float32 or _CUDA in ort.get_available_providers()
    if runs_fused:
        fuse_file(path, rewrites)
    extent = sizes.other(graph, tokens)
    if graph.dtype == torch.bfloat16 and not runs_fused:
        difference = _compare_widened(graph, path, extent)
    else:
        difference = _compare(graph, path, extent)
    if not runs_fused:
        fuse_file(path, rewrites)
    return difference


def _axes(graph: Graph, tensor: str, opened: bool) -> dict[int, str]:
    axes = {0: "batch"}
    if opened and tensor in graph.free:
        height, width = graph.free[tensor]
        axes |= {height: "height", width: "width"}
    return {**axes, **graph.open.get(tensor, {})}


def _compare_widened(graph: Graph, path: Path, extent: Extent) -> float | None:
    """Of a bfloat16 graph, with the same weights in float32; None where there is too little memory for it."""
    weights = path.with_name(WEIGHTS).stat().st_size
    if available_bytes() < _WIDENED_COPIES * weights:
        return None
    widened = path.with_name("widened.onnx")
    try:
        widen(path, widened)
        return _compare(graph.float(), widened, extent)
    finally:
        widened.unlink(missing_ok=True)


def available_bytes() -> int:
    """Of memory, without what the system would have to swap out."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))


def _compare(graph: Graph, path: Path, extent: Extent) -> float:
    inputs = graph.examples(extent)
    with torch.no_grad():
        expected = graph(*inputs.values())
    expected = (expected,) if isinstance(expected, torch.Tensor) else expected
    options = ort.SessionOptions()
    options.log_severity_level = 3
    present = ort.get_available_providers()
    providers = [each for each in (_CUDA, "CPUExecutionProvider") if each in present]
    session = ort.InferenceSession(str(path), options, providers=providers)
    given = session.run(list(graph.outputs), {name: tensor.numpy() for name, tensor in inputs.items()})
    differences = []
    for name, one, other in zip(graph.outputs, given, expected, strict=True):
        difference, allowed = _difference(one, other.numpy(), graph.dtype)
        if not difference <= allowed:
            raise Internal(f"{path}: {name} differs from torch's by {difference:.2g}; at most {allowed:g} is allowed")
        differences.append(difference)
    return max(differences)


def _difference(one: np.ndarray, other: np.ndarray, dtype: torch.dtype) -> tuple[float, float]:
    """How far two outputs are apart, and how far they may be."""
    apart = float(np.abs(one.astype(np.float64) - other.astype(np.float64)).max())
    if one.dtype == np.uint8:
        return apart, _PIXEL_TOLERANCES[dtype]
    return apart / max(float(np.abs(other).max()), 1e-12), _TOLERANCES[dtype]
