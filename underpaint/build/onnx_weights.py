"""The weights of a graph, left where they are: in the safetensors file beside it.

Every initializer becomes external data (ONNX's own mechanism) at the tensor's place in the safetensors file. Where
the file is float16 and the graph computes in float32, as in the tiny family, a Cast follows, which onnxruntime folds
when it loads: so it computes with exactly the weights that diffusers or transformers read from the same folder.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxscript.optimizer
from onnx import TensorProto, helper, numpy_helper
from onnxscript import ir
from safetensors.torch import save_file
from torch import nn

from underpaint.build.onnx_cleaning import quiet

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


def store_weights(program: ir.Model, module: nn.Module, path: Path) -> None:
    """Write what a traced graph uses of its module's weights, each tensor once, as a safetensors file."""
    tensors = {**dict(module.named_parameters(remove_duplicate=False)), **dict(module.named_buffers())}
    used = {name: tensors[name] for name in program.graph.initializers if name in tensors}
    save_file({name.removeprefix(WEIGHTS_PREFIX): t.detach().contiguous() for name, t in used.items()}, path)


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
    with quiet():
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


def _rename(graph: onnx.GraphProto, old: str, new: str) -> None:
    """Rename a value wherever it is written, read or described."""
    for node in graph.node:
        node.input[:] = [new if name == old else name for name in node.input]
        node.output[:] = [new if name == old else name for name in node.output]
    for value in (*graph.output, *graph.value_info):
        if value.name == old:
            value.name = new


def widen(source: Path, target: Path) -> None:
    """Write a bfloat16 graph, beside the same weights, as one that computes in float32: to be run where nothing
    computes in bfloat16. Its nodes and weights are the same; they are cast when they are read."""
    model = onnx.load(source, load_external_data=False)
    casts = []
    for tensor in [each for each in model.graph.initializer if each.data_type == TensorProto.BFLOAT16]:
        narrow = f"{tensor.name}_narrow"
        casts.append(helper.make_node("Cast", [narrow], [tensor.name], to=TensorProto.FLOAT))
        tensor.name = narrow
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.name == "to" and attribute.i == TensorProto.BFLOAT16:
                attribute.i = TensorProto.FLOAT
            elif attribute.t.data_type == TensorProto.BFLOAT16:
                attribute.t.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(attribute.t).astype(np.float32)))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    target.write_bytes(model.SerializeToString())
