"""The LoRA twin of a network: its graph and its weights, with the LoRAs of its rows as further inputs.

    lora_bank     float16 [G, R, width]   the LoRAs of each group of rows, one component under the other (see
                                          ``addons.layout``); any G that divides the rows, any rank R
    lora_scales   float32 [G, R]          how strongly each component acts

A group is B / G consecutive rows that have the same LoRAs, at the least the two rows of a request under guidance, at
the most all that ask for the same. So one batch mixes them freely, what many rows have in common is done once, and what
a row costs does not depend on how many LoRAs the others bring.

The twin is written from the traced graph of the network, and stands beside it in the same folder, since a graph finds
its weights only there. What is added to a layer is said in ``lora_layers``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path

import onnx
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper

from underpaint.addons.layout import FILE_NAME as LAYOUT_FILE
from underpaint.addons.layout import Layer, LoraLayout
from underpaint.build.graph_editor import GraphEditor
from underpaint.build.graph_fusions import FOR_CPU, Rewrites, fuse, split_gates
from underpaint.build.lora_layers import GROUPS, STRENGTHS, Place, adapt_layer, numbers, part_names

NARROW_FILE, WIDE_FILE = "lora.onnx", "locon.onnx"
BANK, SCALES = "lora_bank", "lora_scales"
_END = 2**31 - 1
_PREFIX = "weights."
_STORED = (".weight_float16", ".weight")  # cast to what the graph computes in, or as it is
# What scripts that train LoRAs leave alone: the ends of a UNet, and what its time goes through first.
_LEFT_ALONE = ("conv_in", "conv_out", "time_embedding.", "add_embedding.")


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
    layers = sorted(_places(GraphEditor(traced.graph), {}), key=_is_wide)
    return LoraLayout(base, max_rank, tuple(layers), narrow=sum(not _is_wide(layer) for layer in layers))


def _is_wide(layer: Layer) -> bool:
    return ".resnets." in layer.name or "samplers." in layer.name


def write_part_twins(folder: Path, traced: ModelProto, layout: LoraLayout, part: str) -> None:
    """Write the twins of a part of a network, ``<part>_lora.onnx`` and ``<part>_locon.onnx``. They take the banks of
    the whole and find their own layers in them."""
    _write(folder / f"{part}_{NARROW_FILE}", traced, layout.layers[: layout.narrow], FOR_CPU)
    _write(folder / f"{part}_{WIDE_FILE}", traced, layout.layers, FOR_CPU)


def _write(path: Path, traced: ModelProto, layers: Sequence[Layer], rewrites: Rewrites) -> None:
    model = ModelProto()
    model.CopyFrom(traced)
    adapt(model, layers, rewrites)
    fuse(model, rewrites)
    del model.graph.value_info[:]
    path.write_bytes(model.SerializeToString(deterministic=True))
    onnx.checker.check_model(path)


def adapt(model: ModelProto, layers: Sequence[Layer], rewrites: Rewrites = FOR_CPU) -> None:
    """Give a traced graph, whose weights are references, the inputs of a LoRA twin that adapts these layers, as many of
    them as it has."""
    rows = _rows(model)
    if split_gates in rewrites:  # first, so that a weight whose halves go separate ways is adapted by halves
        whole = GraphEditor(model.graph)
        split_gates(whole)
        whole.write_back()
    graph = GraphEditor(model.graph)
    places = _places(graph, rows)
    _read_groups(graph, next((each.dtype for each, *_ in places.values()), TensorProto.FLOAT))
    _share_out(graph, layers, places)
    for layer in layers:
        if layer in places:
            adapt_layer(graph, places[layer])
    graph.write_back()
    width = sum(layer.down + layer.outputs for layer in layers)
    model.graph.input.append(_declare(BANK, TensorProto.FLOAT16, ["groups", "rank", width]))
    model.graph.input.append(_declare(SCALES, TensorProto.FLOAT, ["groups", "rank"]))


def _read_groups(graph: GraphEditor, dtype: int) -> None:
    graph.add("Shape", [BANK], [GROUPS], start=0, end=1)
    column = graph.add("Unsqueeze", [SCALES, numbers(graph, 2)], ["lora_scales_3d"])
    graph.add("Cast", [column], [STRENGTHS], to=dtype)


def _share_out(graph: GraphEditor, layers: Sequence[Layer], places: Mapping[Layer, Sequence[Place]]) -> None:
    """Split the bank into the layers' parts; neighbours that this graph has not are left aside in one piece."""
    parts: dict[str, int] = {}
    for here, run in groupby(layers, key=lambda layer: layer in places):
        if here:
            for layer in run:
                parts |= part_names(places[layer])
        else:
            parts[f"lora_aside_{len(parts)}"] = sum(layer.down + layer.outputs for layer in run)
    graph.add("Split", [BANK, numbers(graph, *parts.values(), name="lora_widths")], parts, axis=2)


def _declare(name: str, dtype: int, dims: list[str | int]) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, dims)


def _rows(model: ModelProto) -> dict[str, tuple[int | None, ...]]:
    """The dimensions of every tensor but the first, None where one is open."""
    graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    return {
        value.name: tuple(dim.dim_value or None for dim in value.type.tensor_type.shape.dim[1:])
        for value in [*graph.input, *graph.value_info]
    }


def _places(graph: GraphEditor, rows: Mapping[str, tuple[int | None, ...]]) -> dict[Layer, list[Place]]:
    """Where the layers are that a LoRA can adapt, in the order in which the graph comes to them."""
    places: dict[Layer, list[Place]] = {}
    for node in [node for op_type in ("MatMul", "Gemm", "Conv") for node in graph.of_type(op_type)]:
        weight, begin, end = _weight_of(graph, node)
        stored = graph.up(weight, "Cast") or weight
        if not stored.startswith(_PREFIX) or not stored.endswith(_STORED) or _left_alone(stored):
            continue
        layer = _layer(graph, stored)
        place = Place(
            layer, node, graph.weight_type(weight), begin, min(end, layer.outputs), rows.get(node.input[0], ())
        )
        places.setdefault(layer, []).append(place)
    return {layer: sorted(each, key=lambda place: place.begin) for layer, each in places.items()}


def _weight_of(graph: GraphEditor, node: NodeProto) -> tuple[str, int, int]:
    """What a node multiplies by, [outputs, ...], and which of the outputs."""
    weight = node.input[1] if node.op_type != "MatMul" else graph.up(node.input[1], "Transpose") or ""
    part = graph.maker(weight, "Slice")
    if part is None:
        return weight, 0, _END
    begin, end = (graph.constant(name) for name in part.input[1:3])
    assert begin is not None and end is not None  # as ``split_gates`` writes it
    return part.input[0], int(begin.item()), int(end.item())


def _left_alone(stored: str) -> bool:
    return stored.removeprefix(_PREFIX).startswith(_LEFT_ALONE)


def _layer(graph: GraphEditor, stored: str) -> Layer:
    outputs, inputs, *window = graph.stored_shape(stored)
    name = stored.removeprefix(_PREFIX).rpartition(".")[0].removeprefix("text_model.")
    return Layer(name, inputs, outputs, window[0] if window else 1)
