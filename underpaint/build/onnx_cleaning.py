"""What torch's exporter leaves in a graph, put in order: shapes computed at every call, notes, messages."""

from __future__ import annotations

import contextlib
import io
import logging
import math
import warnings
from collections.abc import Iterator

import numpy as np
import onnx
from onnx import numpy_helper


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


def remove_traces(model: onnx.ModelProto) -> None:
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
def quiet() -> Iterator[None]:
    """Exporter and optimizer tell of every stage and node, and warn of things that do not concern us."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
