"""torch to ONNX: a traced module beside its weights, simplified, and with rewrites for what is to run it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import onnx
import torch
from onnxscript import ir
from torch import nn

from underpaint.build.graph_fusions import FOR_CPU, Rewrites, fuse
from underpaint.build.onnx_cleaning import quiet, remove_traces, settle_reshapes
from underpaint.build.onnx_weights import point_into

OPSET = 20


def write_graph(
    folder: Path,
    module: nn.Module,
    inputs: dict[str, torch.Tensor],
    output: str,
    twins: Callable[[Path, onnx.ModelProto], None] | None = None,
    file_name: str = "model.onnx",
    axes: Mapping[str, Mapping[int, str]] | None = None,
) -> None:
    """Write a graph of one output whose weights are those of the safetensors file in `folder`.

    `twins` may write variations of the graph beside it (see `lora_twin`); it gets the graph before its fusions.
    `axes`: the open axes of an input, by name, where it has others than the batch alone.
    """
    program = trace(module, inputs, [output], axes or {})
    finish(folder, program, [output], next(folder.glob("*.safetensors")), twins, file_name)


def trace(
    module: nn.Module,
    inputs: Mapping[str, torch.Tensor],
    outputs: Sequence[str],
    axes: Mapping[str, Mapping[int, str]],
    multiple: int = 1,
) -> ir.Model:
    """The graph with named inputs and outputs and open axes: the batch, or those that `axes` names.

    Axes called height and width are open to multiples of `multiple` only.
    """
    named = {name: axes.get(name, {0: "batch"}) for name in inputs}
    open_axes = {axis for each in named.values() for axis in each.values()}
    dims = {axis: torch.export.Dim(axis, min=1, max=1024) for axis in sorted(open_axes)}
    dims |= {side: multiple * dims[side] for side in ("height", "width") if side in dims and multiple > 1}
    with quiet():
        program = torch.onnx.export(
            module,
            tuple(inputs.values()),
            input_names=list(inputs),
            output_names=[f"final_{output}" for output in outputs],
            dynamic_shapes=tuple({place: dims[axis] for place, axis in each.items()} for each in named.values()),
            opset_version=OPSET,
            dynamo=True,
            optimize=False,
            verbose=False,
        )
    _name_sides(program.model, multiple)
    return program.model


def _name_sides(program: ir.Model, multiple: int) -> None:
    """Call an open side by its name where the exporter writes it as a product, such as "8*height"."""
    written = {f"{multiple}*{side}": side for side in ("height", "width")}
    for value in (*program.graph.inputs, *program.graph.outputs):
        for place, dim in enumerate(value.shape or ()):
            if isinstance(dim, ir.SymbolicDim) and dim.value in written:
                value.shape[place] = ir.SymbolicDim(written[dim.value])


def finish(
    folder: Path,
    program: ir.Model,
    outputs: Sequence[str],
    weights: Path,
    twins: Callable[[Path, onnx.ModelProto], None] | None = None,
    file_name: str = "model.onnx",
    rewrites: Rewrites = FOR_CPU,
) -> None:
    """Point a traced graph into the safetensors file beside it, simplify it, and write it.

    `rewrites`: with onnxruntime's own operators, which no other runtime knows.
    """
    model = point_into(program, outputs, weights)
    settle_reshapes(model)
    remove_traces(model)
    if twins is not None:
        twins(folder, model)
    fuse(model, rewrites)
    _write(model, folder / file_name)


def fuse_file(path: Path, rewrites: Rewrites) -> None:
    """Rewrite a graph that was written without."""
    model = onnx.load(path, load_external_data=False)
    fuse(model, rewrites)
    _write(model, path)


def _write(model: onnx.ModelProto, path: Path) -> None:
    path.write_bytes(model.SerializeToString(deterministic=True))
    onnx.checker.check_model(path)  # by path, since it follows the references
