"""The LoRA twin of a network: its graph and its weights, with a bank of LoRAs and a scale per row as further inputs.

    lora_bank     float16 [L, R, width]   the distinct LoRAs of the batch (see ``addons.layout``), any L, any rank R
    lora_scales   float32 [B, L]          how strongly each row has each of them; zero: not at all

Nothing is merged, and so nothing restored: every layer adds Σ sᵢ · upᵢ(downᵢ(x)) of its row's own LoRAs, so one batch
mixes them freely. Each row picks from the bank as many as the row with the most has, so that what a row costs does not
depend on how many LoRAs the others bring.

The twin is written from the traced graph of the network, before its fusions, and stands beside it in the same folder,
since a graph finds its weights only there.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper

from underpaint.addons.layout import FILE_NAME as LAYOUT_FILE
from underpaint.addons.layout import Layer, LoraLayout
from underpaint.build.graph_editor import GraphEditor
from underpaint.build.graph_fusions import FOR_CPU, Rewrites, fuse

NARROW_FILE, WIDE_FILE = "lora.onnx", "locon.onnx"
BANK, SCALES = "lora_bank", "lora_scales"
_ROWS, _BY_COLUMN, _BY_ROW = "lora_rows", "lora_by_column", "lora_by_row"
_END = 2**31 - 1  # of an axis, for a slice
_PREFIX = "weights."
_STORED = (".weight_float16", ".weight")  # cast to what the graph computes in, or as it is
# What scripts that train LoRAs leave alone: the ends of a UNet, and what its time goes through first.
_LEFT_ALONE = ("conv_in", "conv_out", "time_embedding.", "add_embedding.")


@dataclass(frozen=True)
class _Place:
    """A layer in the graph: the node that multiplies by its weight, and the type it does so in."""

    layer: Layer
    node: NodeProto
    dtype: int


def write_twins(folder: Path, traced: ModelProto, base: str, max_rank: int, rewrites: Rewrites = FOR_CPU) -> None:
    """Write the twins of a traced network beside its weights, and what their banks look like.

    ``lora.onnx`` adapts the layers of attention only and costs less; ``locon.onnx`` all that LoRAs ever adapt.
    """
    layout = layout_of(traced, base, max_rank)
    (folder / LAYOUT_FILE).write_text(layout.to_json())
    _write(folder / NARROW_FILE, traced, layout.layers[: layout.narrow], rewrites)
    if layout.narrow < len(layout.layers):
        _write(folder / WIDE_FILE, traced, layout.layers, rewrites)


def layout_of(traced: ModelProto, base: str, max_rank: int) -> LoraLayout:
    """The layers of a traced graph that LoRAs adapt, those of attention first."""
    layers = [place.layer for place in _places(GraphEditor(traced.graph))]
    layers.sort(key=_is_wide)
    return LoraLayout(base, max_rank, tuple(layers), narrow=sum(not _is_wide(layer) for layer in layers))


def _is_wide(layer: Layer) -> bool:
    return ".resnets." in layer.name or "samplers." in layer.name


def write_part_twin(path: Path, traced: ModelProto, layout: LoraLayout) -> None:
    """Write the twin of a part of a network, which takes the banks of the whole and finds its own layers in them."""
    _write(path, traced, layout.layers, FOR_CPU)


def _write(path: Path, traced: ModelProto, layers: Sequence[Layer], rewrites: Rewrites) -> None:
    model = ModelProto()
    model.CopyFrom(traced)
    adapt(model, layers)
    fuse(model, rewrites)
    del model.graph.value_info[:]
    path.write_bytes(model.SerializeToString(deterministic=True))
    onnx.checker.check_model(path)


def adapt(model: ModelProto, layers: Sequence[Layer]) -> None:
    """Give a traced graph, whose weights are references, the inputs of a LoRA twin that adapts these layers, as many of
    them as it has."""
    graph = GraphEditor(model.graph)
    places = {place.layer: place for place in _places(graph)}
    dtype = next((place.dtype for place in places.values()), TensorProto.FLOAT)
    _choose_rows(graph, dtype)
    _share_out(graph, layers, places.keys())
    for layer in layers:
        if layer in places:
            _adapt(graph, places[layer])
    graph.write_back()
    width = sum(layer.down + layer.outputs for layer in layers)
    model.graph.input.append(_declare(BANK, TensorProto.FLOAT16, ["loras", "rank", width]))
    model.graph.input.append(_declare(SCALES, TensorProto.FLOAT, [_batch_of(model), "loras"]))


def _declare(name: str, dtype: int, dims: list[str | int]) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, dims)


def _batch_of(model: ModelProto) -> str:
    return str(model.graph.input[0].type.tensor_type.shape.dim[0].dim_param)


def _places(graph: GraphEditor) -> list[_Place]:
    """Every layer that a LoRA can adapt, in the order in which the graph comes to it."""
    nodes = [node for op_type in ("MatMul", "Gemm", "Conv") for node in graph.of_type(op_type)]
    found = ((node, _weight_of(graph, node)) for node in nodes)
    return [
        _Place(_layer(graph, weight), node, _dtype(graph, node))
        for node, weight in found
        if weight and _adaptable(weight)
    ]


def _dtype(graph: GraphEditor, node: NodeProto) -> int:
    weight = node.input[1] if node.op_type != "MatMul" else graph.up(node.input[1], "Transpose")
    return graph.weight_type(weight or "")


def _weight_of(graph: GraphEditor, node: NodeProto) -> str | None:
    """The name of the stored tensor that a node multiplies by; None where it is none."""
    weight = node.input[1] if node.op_type != "MatMul" else graph.up(node.input[1], "Transpose")
    stored = graph.up(weight or "", "Cast") or weight
    return stored if stored and stored.startswith(_PREFIX) and stored.endswith(_STORED) else None


def _adaptable(stored: str) -> bool:
    return not stored.removeprefix(_PREFIX).startswith(_LEFT_ALONE)


def _layer(graph: GraphEditor, stored: str) -> Layer:
    outputs, inputs, *window = graph.stored_shape(stored)
    name = stored.removeprefix(_PREFIX).rpartition(".")[0].removeprefix("text_model.")
    return Layer(name, inputs, outputs, window[0] if window else 1)


# What is added to the graph -------------------------------------------------------------------------------------


def _share_out(graph: GraphEditor, layers: Sequence[Layer], present: Collection[Layer]) -> None:
    """Split the bank into the layers' parts; neighbours that this graph has not are left aside in one piece."""
    widths: list[int] = []
    parts: list[str] = []
    for here, run in groupby(layers, key=lambda layer: layer in present):
        run_widths = {f"{layer.name}_bank": layer.down + layer.outputs for layer in run}
        if not here:
            run_widths = {f"lora_aside_{len(parts)}": sum(run_widths.values())}
        parts += list(run_widths)
        widths += list(run_widths.values())
    graph.add("Split", [BANK, _numbers(graph, *widths, name="lora_widths")], parts, axis=2)


def _choose_rows(graph: GraphEditor, dtype: int) -> None:
    """Which LoRAs each row has, int64 [B, S], and how much of each, once for every component: [B, S · R].

    S is the largest number of LoRAs that a row has, 1 at least; rows with fewer have some of strength zero.
    """
    present = graph.add("Abs", [SCALES], ["lora_presence"])
    counts = graph.add("ReduceSum", [graph.add("Sign", [present], ["lora_sign"]), _numbers(graph, 1)], ["lora_counts"])
    most = graph.add("ReduceMax", [counts], ["lora_most"], keepdims=0)
    whole = graph.add(
        "Reshape",
        [graph.add("Cast", [most], ["lora_most_int"], to=TensorProto.INT64), _numbers(graph, 1)],
        ["lora_most_1d"],
    )
    slots = graph.add("Max", [whole, _numbers(graph, 1)], ["lora_slots"])
    graph.add("TopK", [present, slots], ["lora_largest", _ROWS], axis=1)
    strengths = graph.add("GatherElements", [SCALES, _ROWS], ["lora_strengths"], axis=1)
    single = graph.add("Unsqueeze", [strengths, _numbers(graph, 2)], ["lora_strengths_3d"])
    rank = graph.add("Shape", [BANK], ["lora_rank"], start=1, end=2)
    shape = graph.add("Concat", [_numbers(graph, 1), _numbers(graph, 1), rank], ["lora_spread_shape"], axis=0)
    spread = graph.add("Cast", [graph.add("Expand", [single, shape], ["lora_spread"])], ["lora_typed"], to=dtype)
    graph.add("Reshape", [spread, _numbers(graph, 0, 1, -1)], [_BY_COLUMN])
    graph.add("Reshape", [spread, _numbers(graph, 0, -1, 1)], [_BY_ROW])


def _adapt(graph: GraphEditor, place: _Place) -> None:
    """Add to a node's product what the LoRAs of each row say of its layer: [B, …] of the same shape."""
    node, output = place.node, place.node.output[0]
    graph.rename_output(output, f"{output}_without")
    added = _convolved(graph, place) if node.op_type == "Conv" else _projected(graph, place)
    graph.add("Add", [f"{output}_without", added], [output])


def _factors(graph: GraphEditor, place: _Place) -> tuple[str, str]:
    """Each row's own factors: down [B, S · R, layer.down], up [B, S · R, outputs]."""
    layer = place.layer
    name, width = layer.name, layer.down + layer.outputs
    picked = graph.add("Gather", [f"{name}_bank", _ROWS], [f"{name}_picked"], axis=0)
    joined = graph.add("Reshape", [picked, _numbers(graph, 0, -1, width)], [f"{name}_joined"])
    full = graph.add("Cast", [joined], [f"{name}_full"], to=place.dtype)
    down, up = f"{name}_down", f"{name}_up"
    graph.add("Split", [full, _numbers(graph, layer.down, layer.outputs)], [down, up], axis=2)
    return down, up


def _projected(graph: GraphEditor, place: _Place) -> str:
    """Of tokens [B, T, inputs] or, before a Gemm, of one vector a row, [B, inputs]."""
    name, (down, up), x = place.layer.name, _factors(graph, place), place.node.input[0]
    flat = place.node.op_type == "Gemm"
    if flat:
        x = graph.add("Unsqueeze", [x, _numbers(graph, 1)], [f"{name}_tokens"])
    turned = graph.add("Transpose", [down], [f"{name}_turned"], perm=[0, 2, 1])
    thin = graph.add("MatMul", [x, turned], [f"{name}_thin"])
    scaled = graph.add("Mul", [thin, _BY_COLUMN], [f"{name}_scaled"])
    added = graph.add("MatMul", [scaled, up], [f"{name}_added"])
    return graph.add("Squeeze", [added, _numbers(graph, 1)], [f"{name}_vector"]) if flat else added


def _convolved(graph: GraphEditor, place: _Place) -> str:
    """Of channels [B, inputs, h, w]. No runtime convolves each row with weights of its own; so every pixel is
    multiplied with the whole window, and what it sends to its neighbours is summed up by Col2Im."""
    layer, (down, up), x = place.layer, _factors(graph, place), place.node.input[0]
    name, kernel = layer.name, layer.kernel
    pixels = graph.add("Reshape", [x, _numbers(graph, 0, 0, -1)], [f"{name}_pixels"])
    if kernel > 1:
        down = graph.add("Reshape", [down, _numbers(graph, 0, -1, layer.inputs)], [f"{name}_window"])
    thin = graph.add("MatMul", [down, pixels], [f"{name}_thin"])
    if kernel > 1:
        thin = _gathered(graph, place, thin)
    scaled = graph.add("Mul", [thin, _BY_ROW], [f"{name}_scaled"])
    turned = graph.add("Transpose", [up], [f"{name}_turned"], perm=[0, 2, 1])
    added = graph.add("MatMul", [turned, scaled], [f"{name}_flat"])
    shape = graph.add("Shape", [place.node.output[0]], [f"{name}_shape"])
    return graph.add("Reshape", [added, shape], [f"{name}_added"])


def _gathered(graph: GraphEditor, place: _Place, sent: str) -> str:
    """What pixels send, [B, S · R · kernel², pixels], as what pixels receive, [B, S · R, pixels of the output]."""
    name, kernel = place.layer.name, place.layer.kernel
    size = graph.add("Shape", [place.node.input[0]], [f"{name}_size"], start=2, end=4)
    block = _numbers(graph, kernel, kernel)
    received = graph.add("Col2Im", [sent, size, block], [f"{name}_received"], pads=[kernel // 2] * 4)
    strides = next((list(a.ints) for a in place.node.attribute if a.name == "strides"), [1, 1])
    if strides != [1, 1]:
        ranges = [_numbers(graph, *values) for values in ((0, 0), (_END, _END), (2, 3), tuple(strides))]
        received = graph.add("Slice", [received, *ranges], [f"{name}_strided"])
    return graph.add("Reshape", [received, _numbers(graph, 0, 0, -1)], [f"{name}_gathered"])


def _numbers(graph: GraphEditor, *values: int, name: str = "") -> str:
    name = name or "lora_" + "_".join(str(value).replace("-", "minus_") for value in values)
    return graph.add_constant(name, np.array(values, np.int64))
