"""torch to ONNX, with the weights left where they are: in the safetensors file beside the graph.

Every initializer becomes external data (ONNX's own mechanism) at the tensor's place in the safetensors file. Where
the file is float16 and the graph computes in float32, as in the tiny family, a Cast follows, which onnxruntime folds
when it loads: so it computes with exactly the weights that diffusers or transformers read from the same folder.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import math
import struct
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxscript.optimizer
import torch
from onnx import TensorProto, helper, numpy_helper
from onnxscript import ir
from safetensors.torch import save_file
from torch import nn

from underpaint.build.graph_fusions import fuse

OPSET = 20
WEIGHTS_PREFIX = "weights."  # the graph modules hold their model under this name
# safetensors' names of types, ONNX's, and those that weights of them are called by where they are cast.
_TYPES = {
    "F32": (TensorProto.FLOAT, "float32"),
    "F16": (TensorProto.FLOAT16, "float16"),
    "BF16": (TensorProto.BFLOAT16, "bfloat16"),
    "I64": (TensorProto.INT64, "int64"),
}


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor's bytes lie in its safetensors file."""

    dtype: str
    shape: tuple[int, ...]
    offset: int
    length: int

    @property
    def onnx_type(self) -> int:
        return _TYPES[self.dtype][0]

    @property
    def type_name(self) -> str:
        return _TYPES[self.dtype][1]


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
    with _quiet():
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


def store_weights(program: ir.Model, module: nn.Module, path: Path) -> None:
    """Write what a traced graph uses of its module's weights, each tensor once, as a safetensors file."""
    tensors = {**dict(module.named_parameters(remove_duplicate=False)), **dict(module.named_buffers())}
    used = {name: tensors[name] for name in program.graph.initializers if name in tensors}
    save_file({name.removeprefix(WEIGHTS_PREFIX): t.detach().contiguous() for name, t in used.items()}, path)


def finish(
    folder: Path,
    program: ir.Model,
    outputs: Sequence[str],
    weights: Path,
    twins: Callable[[Path, onnx.ModelProto], None] | None = None,
    file_name: str = "model.onnx",
    fused: bool = True,
) -> None:
    """Point a traced graph into the safetensors file beside it, simplify it, and write it.

    `fused`: with onnxruntime's own operators, which no other runtime knows.
    """
    model = point_into(program, outputs, weights)
    settle_reshapes(model)
    _remove_traces(model)
    if twins is not None:
        twins(folder, model)
    if fused:
        fuse(model)
    _write(model, folder / file_name)


def fuse_file(path: Path) -> None:
    """Rewrite a graph that was written without."""
    model = onnx.load(path, load_external_data=False)
    fuse(model)
    _write(model, path)


def _write(model: onnx.ModelProto, path: Path) -> None:
    path.write_bytes(model.SerializeToString(deterministic=True))
    onnx.checker.check_model(path)  # by path, since it follows the references


def _rename(graph: onnx.GraphProto, old: str, new: str) -> None:
    """Rename a value wherever it is written, read or described."""
    for node in graph.node:
        node.input[:] = [new if name == old else name for name in node.input]
        node.output[:] = [new if name == old else name for name in node.output]
    for value in (*graph.output, *graph.value_info):
        if value.name == old:
            value.name = new


def stored_tensors(weights: Path) -> dict[str, StoredTensor]:
    """Read the header of a safetensors file: its length (8 bytes), then JSON; offsets count from its end."""
    with weights.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    return {
        name: StoredTensor(
            entry["dtype"],
            tuple(entry["shape"]),
            offset=8 + length + entry["data_offsets"][0],
            length=entry["data_offsets"][1] - entry["data_offsets"][0],
        )
        for name, entry in header.items()
    }


def point_into(program: ir.Model, outputs: Sequence[str], weights: Path) -> onnx.ModelProto:
    """The graph with every initializer that the safetensors file holds as a reference, and a Cast where the graph
    computes in another type.

    While the rest is simplified the weights stand as graph inputs, so that none of them can be folded into a transposed
    or reshaped copy; and so that none is ever copied into the graph, which must not exceed 2 GB.
    """
    stored = stored_tensors(weights)
    for name in [name for name in program.graph.initializers if name.removeprefix(WEIGHTS_PREFIX) in stored]:
        value = program.graph.initializers.pop(name)
        value.const_value = None
        program.graph.inputs.append(value)
    model = ir.to_proto(program)
    for output in outputs:
        # The exporter names values after their operators, without a look at the output's name: `embedding` is both.
        _rename(model.graph, output, f"inner_{output}")
        _rename(model.graph, f"final_{output}", output)
    references = _refer(model.graph, stored, weights.name)
    with _quiet():
        simplified = onnxscript.optimizer.optimize(model)
    used = {name for node in simplified.graph.node for name in node.input}
    inputs = [value for value in simplified.graph.input if value.name not in references]
    del simplified.graph.input[:]
    simplified.graph.input.extend(inputs)
    simplified.graph.initializer.extend(ref for name, ref in references.items() if name in used)
    return simplified


def _refer(graph: onnx.GraphProto, stored: dict[str, StoredTensor], location: str) -> dict[str, TensorProto]:
    """The references for the weights that stand as graph inputs; where the file's type is another than the graph's, the
    input gets the file's, and a Cast behind it."""
    references, casts = {}, []
    for value in graph.input:
        tensor = stored.get(value.name.removeprefix(WEIGHTS_PREFIX))
        if tensor is None:
            continue
        name, tensor_type = value.name, value.type.tensor_type
        dims = tuple(dim.dim_value for dim in tensor_type.shape.dim)
        if tensor.shape != dims:
            raise ValueError(f"{name} is {list(dims)} in the graph but {tensor} in {location}")
        if tensor.onnx_type != tensor_type.elem_type:
            value.name = f"{name}_{tensor.type_name}"
            casts.append(helper.make_node("Cast", [value.name], [name], name=f"{name}_cast", to=tensor_type.elem_type))
            tensor_type.elem_type = tensor.onnx_type
        references[value.name] = _external(value.name, tensor, location)
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    return references


def _external(name: str, tensor: StoredTensor, location: str) -> TensorProto:
    proto = TensorProto(name=name, data_type=tensor.onnx_type, dims=tensor.shape)
    proto.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", tensor.offset), ("length", tensor.length)):
        proto.external_data.add(key=key, value=str(value))
    return proto


def settle_reshapes(model: onnx.ModelProto) -> None:
    """Write the shapes of reshapes down, where only the batch is open, instead of computing them at every call.

    A batch that stays the first dimension is written as "what it was" (0), not as "what is left" (-1): only so does
    onnxruntime know that two tensors are of one batch, and add the one to the other as part of a convolution.
    """
    graph, inferred = model.graph, onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    shapes = {value.name: _dims(value) for value in [*inferred.input, *inferred.value_info]}
    for node in graph.node:
        dims = shapes.get(node.output[0]) if node.op_type == "Reshape" else None
        if dims is not None and sum(dim is None for dim in dims) <= 1:
            left = 0 if _same_batch(shapes.get(node.input[0]), dims) else -1
            target = np.array([left if dim is None else dim for dim in dims], np.int64)
            node.input[1] = f"{node.output[0]}_shape"
            graph.initializer.append(numpy_helper.from_array(target, node.input[1]))
            del node.attribute[:]  # allowzero, which would take the 0 literally
    _remove_unused(graph)


def _same_batch(before: list[int | None] | None, after: list[int | None]) -> bool:
    """Whether the open first dimension of a reshaped tensor is that of the tensor before."""
    if not before or not after or None in before[1:] or None in after[1:] or (before[0], after[0]) != (None, None):
        return False
    return math.prod(before[1:]) == math.prod(after[1:])  # type: ignore[arg-type]


def _dims(value: onnx.ValueInfoProto) -> list[int | None]:
    """The dimensions of a tensor; None for one that is not fixed."""
    dims = value.type.tensor_type.shape.dim
    return [dim.dim_value if dim.HasField("dim_value") else None for dim in dims]


def _remove_unused(graph: onnx.GraphProto) -> None:
    """Drop nodes whose outputs nobody reads, and then those that only they read."""
    wanted = {output.name for output in graph.output}
    kept = []
    for node in reversed(graph.node):  # a graph is sorted, so its readers come first this way
        if wanted.intersection(node.output):
            kept.append(node)
            wanted.update(node.input)
    del graph.node[:]
    graph.node.extend(reversed(kept))


def _remove_traces(model: onnx.ModelProto) -> None:
    """Drop the exporter's notes: stack traces, which hold paths of the machine, and intermediate shapes."""
    del model.metadata_props[:]
    graph = model.graph
    del graph.metadata_props[:], graph.value_info[:]
    for item in [*graph.node, *graph.initializer, *graph.input, *graph.output]:
        item.doc_string = ""
        del item.metadata_props[:]
    for function in model.functions:
        for node in function.node:
            node.doc_string = ""
            del node.metadata_props[:]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Exporter and optimizer tell of every stage and node, and warn of things that do not concern us."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
