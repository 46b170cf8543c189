"""torch to ONNX, with the weights left where they are: in the safetensors file beside the graph.

Every initializer becomes external data (ONNX's own mechanism) at the tensor's place in the safetensors file,
float16, followed by a Cast to float32. onnxruntime folds the casts when it loads, so it computes in float32
with exactly the weights that diffusers or transformers read from the same folder.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import math
import struct
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxscript.optimizer
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from underpaint.build.graph_fusions import fuse

OPSET = 20
WEIGHTS_PREFIX = "weights."  # the graph modules hold their model under this name


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor's bytes lie in its safetensors file."""

    dtype: str
    shape: tuple[int, ...]
    offset: int
    length: int


def write_graph(
    folder: Path,
    module: nn.Module,
    inputs: dict[str, torch.Tensor],
    output: str,
    twins: Callable[[Path, onnx.ModelProto], None] | None = None,
    file_name: str = "model.onnx",
    axes: Mapping[str, Mapping[int, str]] | None = None,
) -> None:
    """Write a graph whose weights are those of the safetensors file in `folder`.

    `twins` may write variations of the graph beside it (see `lora_twin`); it gets the graph before its fusions.
    `axes`: the open axes of an input, by name, where it has others than the batch alone.
    """
    model = trace(module, inputs, output, axes or {})
    weights = next(folder.glob("*.safetensors"))
    model = point_into(model, weights)
    settle_reshapes(model)
    _remove_traces(model)
    if twins is not None:
        twins(folder, model)
    fuse(model)
    path = folder / file_name
    path.write_bytes(model.SerializeToString(deterministic=True))
    onnx.checker.check_model(path)  # by path, since it follows the references


def trace(
    module: nn.Module, inputs: dict[str, torch.Tensor], output: str, axes: Mapping[str, Mapping[int, str]]
) -> onnx.ModelProto:
    """The graph with named inputs and output and a free batch axis, weights inside."""
    named = {name: axes.get(name, {0: "batch"}) for name in inputs}
    open_axes = {axis for each in named.values() for axis in each.values()}
    dims = {axis: torch.export.Dim(axis, min=1, max=1024) for axis in sorted(open_axes)}
    with _quiet():
        program = torch.onnx.export(
            module,
            tuple(inputs.values()),
            input_names=list(inputs),
            output_names=[f"final_{output}"],
            dynamic_shapes=tuple({place: dims[axis] for place, axis in each.items()} for each in named.values()),
            opset_version=OPSET,
            dynamo=True,
            optimize=False,
            verbose=False,
        )
    model: onnx.ModelProto = program.model_proto
    # The exporter names values after their operators, without a look at the output's name: `embedding` is both.
    _rename(model.graph, output, f"inner_{output}")
    _rename(model.graph, f"final_{output}", output)
    return model


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


def point_into(model: onnx.ModelProto, weights: Path) -> onnx.ModelProto:
    """The graph with every initializer that the safetensors file holds as a reference and a Cast.

    While the rest is simplified the weights stand as graph inputs, so that none of them can be folded into
    a transposed or reshaped copy.
    """
    stored = stored_tensors(weights)
    references = _cut_out_weights(model.graph, stored, weights.name)
    with _quiet():
        simplified = onnxscript.optimizer.optimize(model)
    used = {name for node in simplified.graph.node for name in node.input}
    inputs = [value for value in simplified.graph.input if value.name not in references]
    del simplified.graph.input[:]
    simplified.graph.input.extend(inputs)
    simplified.graph.initializer.extend(ref for name, ref in references.items() if name in used)
    return simplified


def _cut_out_weights(graph: onnx.GraphProto, stored: dict[str, StoredTensor], location: str) -> dict[str, TensorProto]:
    """Turn stored initializers into float16 graph inputs and casts; return the references to put in place."""
    references, casts, kept = {}, [], []
    for initializer in graph.initializer:
        name = initializer.name
        tensor = stored.get(name.removeprefix(WEIGHTS_PREFIX))
        if tensor is None:
            kept.append(initializer)
            continue
        if tensor.dtype != "F16" or tensor.shape != tuple(initializer.dims):
            raise ValueError(f"{name} is {list(initializer.dims)} in the graph but {tensor} in {location}")
        half = f"{name}_float16"
        references[half] = _external(half, tensor, location)
        casts.append(helper.make_node("Cast", [half], [name], name=f"{name}_cast", to=TensorProto.FLOAT))
        graph.input.append(helper.make_tensor_value_info(half, TensorProto.FLOAT16, tensor.shape))
    nodes = [*casts, *graph.node]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend(kept)
    return references


def _external(name: str, tensor: StoredTensor, location: str) -> TensorProto:
    proto = TensorProto(name=name, data_type=TensorProto.FLOAT16, dims=tensor.shape)
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
    if before is None or None in before[1:] or None in after[1:] or (before[0], after[0]) != (None, None):
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
