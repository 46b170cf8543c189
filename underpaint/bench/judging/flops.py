"""Compute per image, independent of any machine: what the graphs multiply, and how often they are called.

Counted are the multiplications and additions of convolutions and matrix products in the ONNX graphs, which is where the
time goes on any machine; elementwise work, schedulers and retrieval are not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx

from underpaint.errors import InvalidArgument, Unsupported

Shapes = Mapping[str, Sequence[int]]
_ATTENTION = "MultiHeadAttention"


@dataclass(frozen=True)
class VariantCost:
    """GFLOP of one row through each part of a variant."""

    unet: float
    text_encoder: float
    vae_encoder: float
    vae_decoder: float

    @classmethod
    def read(cls, repository: Path, variant: str) -> VariantCost:
        """Of the graphs in a model repository.

        Raises:
            InvalidArgument: one of them is not there.
        """
        parts = ("unet", "text_encoder", "vae_encoder", "vae_decoder")
        return cls(**{part: gflop(repository / f"{variant}_{part}" / "1" / "model.onnx") for part in parts})

    def image(self, steps_run: int, guidance_scale: float, from_image: bool) -> float:
        """GFLOP of an image: under guidance every step has two rows, and every text is read."""
        if steps_run == 0:
            return 0.0  # handed out as it was found
        rows = 2 if guidance_scale > 1 else 1
        return steps_run * rows * self.unet + 2 * self.text_encoder + self.vae_decoder + from_image * self.vae_encoder


def gflop(path: Path) -> float:
    """Of one call of ``model.onnx`` with one row."""
    if not path.is_file():
        raise InvalidArgument.of("model repository", str(path), "one with this file")
    model = onnx.load(path, load_external_data=False)
    counted = [_copy(node) for node in model.graph.node if node.op_type in _COUNTERS]
    _fix_batch(model.graph)
    _make_inferable(model.graph)
    shapes = _shapes(onnx.shape_inference.infer_shapes(model, data_prop=True).graph)
    unknown = [node.name for node in counted if any(0 in shapes.get(name, (0,)) for name in _operands(node))]
    if unknown:
        raise Unsupported(f"{path}: the shapes of {len(unknown)} operators depend on the input, {unknown[0]} the first")
    return sum(_COUNTERS[node.op_type](node, shapes) for node in counted) / 1e9


def _copy(node: onnx.NodeProto) -> onnx.NodeProto:
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    return copy


def _make_inferable(graph: onnx.GraphProto) -> None:
    """onnxruntime's attention means nothing to the inference of shapes. Its output has the shape of its query."""
    for node in graph.node:
        if node.op_type == _ATTENTION:
            query = node.input[0]
            node.op_type, node.domain = "Identity", ""
            del node.attribute[:], node.input[:]
            node.input.append(query)


def _shapes(graph: onnx.GraphProto) -> Shapes:
    initializers = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    values = (*graph.input, *graph.value_info, *graph.output)
    return initializers | {value.name: _dimensions(value) for value in values}


def _fix_batch(graph: onnx.GraphProto) -> None:
    """One row: the first dimension of every input, and wherever outputs name the same dimension."""
    batches = [declared.type.tensor_type.shape.dim[0] for declared in graph.input]
    names = {dim.dim_param for dim in batches} - {""}
    outputs = [dim for declared in graph.output for dim in declared.type.tensor_type.shape.dim]
    for dim in (*batches, *(dim for dim in outputs if dim.dim_param in names)):
        dim.dim_value = 1


def _dimensions(value: onnx.ValueInfoProto) -> tuple[int, ...]:
    """0 where inference could not tell."""
    return tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)


def _operands(node: onnx.NodeProto) -> list[str]:
    return [*node.input[: 3 if node.op_type == _ATTENTION else 2], node.output[0]]


def _convolution(node: onnx.NodeProto, shapes: Shapes) -> int:
    """Each value of the output sums over one kernel: weight [out, in / groups, *kernel]."""
    return 2 * math.prod(shapes[node.output[0]]) * math.prod(shapes[node.input[1]][1:])


def _transposed_convolution(node: onnx.NodeProto, shapes: Shapes) -> int:
    """Each value of the input is spread over one kernel: weight [in, out / groups, *kernel]."""
    return 2 * math.prod(shapes[node.input[0]]) * math.prod(shapes[node.input[1]][1:])


def _product(node: onnx.NodeProto, shapes: Shapes) -> int:
    return 2 * math.prod(shapes[node.output[0]]) * shapes[node.input[0]][-1]


def _attention(node: onnx.NodeProto, shapes: Shapes) -> int:
    """Query with key, and scores with value: [rows, tokens, width] each."""
    query, key, value = (shapes[name] for name in node.input[:3])
    return 2 * query[0] * query[1] * key[1] * (query[2] + value[2])


_COUNTERS: dict[str, Callable[[onnx.NodeProto, Shapes], int]] = {
    "Conv": _convolution,
    "ConvTranspose": _transposed_convolution,
    "MatMul": _product,
    "Gemm": _product,
    _ATTENTION: _attention,
}
