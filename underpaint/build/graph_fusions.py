"""Rewrites of an exported graph into one that computes the same with less work, for onnxruntime on a CPU or with CUDA.

Each target has its own: what halves a product (gates) or replaces a convolution by a transposed one (upsampling) is a
gain that was measured on a CPU; on a GPU the first means more launches and the second leaves cuDNN's best kernels, so
both stay as they are there.

What each is worth in ``tiny-l``'s UNet, one thread, onnxruntime 1.31, a batch of 1 and of 16: everything together
7 and 8 %; the upsampling 2 and 4 %, the affine 3 and 3 %, the gates 1 and 3 %, attention 3 and 1 %, the joining 1 %.
The rest of a call is convolutions and products at the machine's peak, and, in a small batch, reading the weights.
What gained nothing: joining query, key and value; ``SkipLayerNormalization``, which is slower than its parts.

``MultiHeadAttention`` is onnxruntime's own operator (domain ``com.microsoft``, with kernels for CPU and CUDA); an
export for another runtime has to do without ``fuse``. What is computed from weights alone (joined, mirrored, summed)
stands in the graph, because the file holds the weights as diffusers does, and is folded when the graph is loaded.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, helper

from underpaint.build.graph_editor import GraphEditor

Rewrites = Sequence[Callable[[GraphEditor], None]]

MICROSOFT = "com.microsoft"
_WORTH_JOINING = 4  # projections of one tensor
# Channels. Below, as much is lost as gained: transposed convolutions lack the blocked layout that others use.
_WORTH_SUMMING = 64


def fuse(model: ModelProto, rewrites: Rewrites) -> None:
    """Apply every rewrite wherever it fits."""
    if not rewrites:
        return
    graph = GraphEditor(model.graph)
    for rewrite in rewrites:
        rewrite(graph)
    graph.write_back()
    if any(node.domain == MICROSOFT for node in model.graph.node):
        model.opset_import.append(helper.make_opsetid(MICROSOFT, 1))


def fuse_attention(graph: GraphEditor) -> None:
    """softmax(q·kᵀ)·v, which the exporter writes as some twenty nodes that mostly move heads about, as one node."""
    for softmax in graph.of_type("Softmax"):
        scores, mix = graph.maker(softmax.input[0], "MatMul"), graph.reader(softmax.output[0], "MatMul")
        if scores is None or mix is None:
            continue
        query = graph.up(scores.input[0], "Mul", "Transpose", "Reshape")
        key = graph.up(scores.input[1], "Mul", "Reshape", "Transpose", "Reshape", "Transpose", "Reshape")
        value = graph.up(mix.input[1], "Transpose", "Reshape")
        swapped = graph.reader(mix.output[0], "Transpose")
        end = swapped and graph.reader(swapped.output[0], "Reshape")
        heads = _heads(graph, mix.input[1])
        scale = _scale(graph, scores)
        if query and key and value and end and heads and scale:
            inputs = [query, key, value]
            graph.add("MultiHeadAttention", inputs, end.output, MICROSOFT, num_heads=heads, scale=scale)


def _heads(graph: GraphEditor, value: str) -> int | None:
    """From the shape that values are given before their heads go to the front: [batch, tokens, heads, width].

    It is put together at every call where the number of tokens is open.
    """
    apart = graph.maker(graph.up(value, "Transpose") or "", "Reshape")
    if apart is None:
        return None
    shape, joined = graph.constant(apart.input[1]), graph.maker(apart.input[1], "Concat")
    if shape is None and joined is not None and len(joined.input) == 4:
        heads = graph.constant(joined.input[2])
        return None if heads is None else int(heads.item())
    return None if shape is None or len(shape) != 4 else int(shape[2])


def _scale(graph: GraphEditor, scores: NodeProto) -> float | None:
    """The exporter multiplies both sides by the root of the scale."""
    scale = 1.0
    for side in scores.input:
        multiplied = graph.maker(side, "Mul")
        factor = None if multiplied is None else graph.constant(multiplied.input[1])
        if factor is None:
            return None
        scale *= factor.item()
    return scale


def fuse_affine(graph: GraphEditor) -> None:
    """The scale and shift by channel that end a group normalisation: one pass over the tensor instead of two.

    BatchNormalization with mean 0 and variance 1 is nothing but that.
    """
    for shift in graph.of_type("Add"):
        scale = graph.maker(shift.input[0], "Mul")
        if scale is None or graph.up(scale.input[0], "Reshape", "InstanceNormalization") is None:
            continue
        gamma, beta = (graph.up(node.input[1], "Unsqueeze") for node in (scale, shift))
        shape = gamma and graph.weight_shape(gamma)
        if gamma and beta and shape:
            zeros, ones = (_full(graph, shape[0], value, graph.weight_type(gamma)) for value in (0.0, 1.0))
            inputs = [scale.input[0], gamma, beta, zeros, ones]
            graph.add("BatchNormalization", inputs, shift.output, epsilon=0.0)


def _full(graph: GraphEditor, length: int, value: float, dtype: int) -> str:
    number = helper.make_tensor("", dtype, [1], [value])
    return graph.add("ConstantOfShape", [_number(graph, length)], [f"{value:g}_times_{length}"], value=number)


def join_projections(graph: GraphEditor) -> None:
    """Many projections of one tensor as a single one, to be split: those of the time for every residual block, and
    the keys and values of the caption for every attention."""
    by_input: dict[tuple[str, str], list[NodeProto]] = defaultdict(list)
    for node in [*graph.of_type("Gemm"), *graph.of_type("MatMul")]:
        if _weight(graph, node) is not None:
            by_input[node.op_type, node.input[0]].append(node)
    for (op_type, tensor), nodes in by_input.items():
        if len(nodes) >= _WORTH_JOINING:
            _join(graph, op_type, tensor, nodes)


def _join(graph: GraphEditor, op_type: str, tensor: str, nodes: list[NodeProto]) -> None:
    name = f"{nodes[0].output[0]}_joined"
    weights = [_weight(graph, node) or "" for node in nodes]
    weight = graph.add("Concat", weights, [f"{name}_weight"], axis=0)
    if op_type == "Gemm":
        bias = graph.add("Concat", [node.input[2] for node in nodes], [f"{name}_bias"], axis=0)
        graph.add("Gemm", [tensor, weight, bias], [name], transB=1)
    else:
        graph.add("MatMul", [tensor, graph.add("Transpose", [weight], [f"{weight}_t"], perm=[1, 0])], [name])
    sizes = [(graph.weight_shape(weight) or (0,))[0] for weight in weights]
    graph.add(
        "Split",
        [name, graph.add_constant(f"{name}_sizes", np.array(sizes, np.int64))],
        [node.output[0] for node in nodes],
        axis=-1,
    )


def _weight(graph: GraphEditor, node: NodeProto) -> str | None:
    """The weight [out, in] of a projection."""
    weight = node.input[1] if node.op_type == "Gemm" else graph.up(node.input[1], "Transpose")
    return weight if weight and graph.weight_shape(weight) else None


def split_gates(graph: GraphEditor) -> None:
    """A gated unit, a·gelu(b) with [a, b] = x·Wᵀ + bias, from two products instead of a product that is then split.

    So onnxruntime can add the bias and apply the gelu in one go.
    """
    for split in graph.of_type("Split"):
        biased = graph.maker(split.input[0], "Add")
        product = biased and graph.maker(biased.input[0], "MatMul")
        weight = product and _weight(graph, product)
        if not biased or not product or not weight or len(split.output) != 2:
            continue
        rows = (graph.weight_shape(weight) or (0,))[0]
        for i, output in enumerate(list(split.output)):
            at = [_number(graph, i * rows // 2), _number(graph, (i + 1) * rows // 2), _number(graph, 0)]
            part = graph.add("Slice", [weight, *at], [f"{output}_weight"])
            bias = graph.add("Slice", [biased.input[1], *at], [f"{output}_bias"])
            turned = graph.add("Transpose", [part], [f"{part}_t"], perm=[1, 0])
            plain = graph.add("MatMul", [product.input[0], turned], [f"{output}_product"])
            graph.add("Add", [plain, bias], [output])


def _number(graph: GraphEditor, value: int) -> str:
    return graph.add_constant(f"number_{value}", np.array([value], np.int64))


def fuse_upsampling(graph: GraphEditor) -> None:
    """Doubling the side by repetition and a convolution 3 x 3 as one transposed convolution 4 x 4 of stride 2.

    Four of the nine products at each place are of equal pixels with different weights: the weights are summed first,
    which leaves 4/9 of the products.
    """
    for resize in graph.of_type("Resize"):
        conv = graph.reader(resize.output[0], "Conv")
        if conv is None or not _doubles(graph, resize):
            continue
        shape = graph.weight_shape(conv.input[1]) or (0, 0)
        same_size = shape[2:] == (3, 3) and list(_attribute(conv, "pads")) == [1] * 4
        if same_size and min(shape[:2]) >= _WORTH_SUMMING:
            _replace_upsampling(graph, resize.input[0], conv)


def _doubles(graph: GraphEditor, resize: NodeProto) -> bool:
    scales = graph.constant(resize.input[2]) if len(resize.input) == 3 else None
    return scales is not None and scales.tolist() == [1, 1, 2, 2] and _attribute(resize, "mode") == b"nearest"


def _replace_upsampling(graph: GraphEditor, tensor: str, conv: NodeProto) -> None:
    name = f"{conv.output[0]}_upsampling"
    turned = graph.add("Transpose", [conv.input[1]], [f"{name}_turned"], perm=[1, 0, 2, 3])
    back, before_first = (graph.add_constant(f"pair_{n}", np.array([n, n], np.int64)) for n in (-1, -(2**31)))
    axes = graph.add_constant("height_width", np.array([2, 3], np.int64))
    mirrored = graph.add("Slice", [turned, back, before_first, axes, back], [f"{name}_mirrored"])
    shifted = []
    for y, x in np.ndindex(2, 2):
        margin = graph.add_constant(f"margin_{y}{x}", np.array([0, 0, y, x, 0, 0, 1 - y, 1 - x], np.int64))
        shifted.append(graph.add("Pad", [mirrored, margin], [f"{name}_{y}{x}"]))
    weight = graph.add("Sum", shifted, [f"{name}_weight"])
    inputs = [tensor, weight, *conv.input[2:]]
    graph.add("ConvTranspose", inputs, conv.output, kernel_shape=[4, 4], strides=[2, 2], pads=[1, 1, 1, 1])


def _attribute(node: NodeProto, name: str) -> Any:
    return next(helper.get_attribute_value(each) for each in node.attribute if each.name == name)


FOR_CPU: Rewrites = (fuse_attention, fuse_affine, join_projections, split_gates, fuse_upsampling)
FOR_GPU: Rewrites = (fuse_attention, fuse_affine, join_projections)
NONE: Rewrites = ()  # plain ONNX, for runtimes that know nothing of onnxruntime's own operators


def rewrites_for(kind: str) -> Rewrites:
    """By a recipe's ``kind``; "auto" may be either, and was measured on a CPU."""
    return FOR_GPU if kind == "gpu" else FOR_CPU
