"""What a LoRA twin adds to one layer of a traced graph: Σ sᵢ · upᵢ · downᵢ of the LoRAs of each group of rows.

Two ways lead to the same numbers, and which is the shorter is counted when the graph is written:

    merged      W' = W + up · (s · down) for each group, then x · W'; costs rank · inputs · outputs a group
    projected   x · W + (x · (s · down)) · up; costs rank · (inputs + outputs) for each position of each row

Many positions of few channels, as at the large end of a UNet, are for the first, few of many for the second.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from onnx import NodeProto

from underpaint.addons.layout import Layer
from underpaint.build.graph_editor import GraphEditor

GROUPS, STRENGTHS = "lora_groups", "lora_strengths"  # int64 [1]; [G, R, 1] of the type that is computed in
_USUAL_ROWS = 2  # of a group: a request's under guidance
_END = 2**31 - 1  # of an axis, for a slice


@dataclass(frozen=True)
class Place:
    """A node that multiplies by a layer's weight.

    ``begin``, ``end``: which of the layer's outputs it makes; the halves of a gated unit are made apart. ``row``: the
    dimensions of its input but for the batch, [T, inputs], [inputs] or [inputs, h, w], None where one is open.
    ``dtype``: as ONNX counts them, that it computes in.
    """

    layer: Layer
    node: NodeProto
    dtype: int
    begin: int
    end: int
    row: tuple[int | None, ...]

    @property
    def is_conv(self) -> bool:
        return self.node.op_type == "Conv"

    @property
    def positions(self) -> int | None:
        """Tokens or pixels of a row; None where that is open."""
        dims = self.row[1:] if self.is_conv else self.row[:-1]
        return None if None in dims else math.prod(dims)  # type: ignore[arg-type]

    @property
    def merges(self) -> bool:
        """Whether the first way is the shorter. Convolutions of a window have only the second, since no runtime
        convolves each row with weights of its own; nor has a vector a row any use for the first."""
        if self.positions is None or self.layer.kernel > 1 or self.node.op_type == "Gemm":
            return False
        per_position = self.layer.inputs + self.layer.outputs
        return _USUAL_ROWS * self.positions * per_position >= self.layer.inputs * self.layer.outputs


def part_names(places: Sequence[Place]) -> dict[str, int]:
    """The parts of the bank that belong to a layer, in their order, and how wide each is."""
    layer = places[0].layer
    ups = {_up_part(place): place.end - place.begin for place in places}
    return {_down_part(layer): layer.down, **ups}


def adapt_layer(graph: GraphEditor, places: Sequence[Place]) -> None:
    """Change what the places of one layer compute, each to the same shape as before."""
    layer, dtype = places[0].layer, places[0].dtype
    cast = graph.add("Cast", [_down_part(layer)], [f"{layer.name}_down"], to=dtype)
    down = graph.add("Mul", [cast, STRENGTHS], [f"{layer.name}_scaled"])
    for place in places:
        up = graph.add("Cast", [_up_part(place)], [f"{_name(place)}_up"], to=dtype)
        if place.merges:
            _merge(graph, place, down, up)
        else:
            _add(
                graph,
                place,
                _convolved(graph, place, down, up) if place.is_conv else _projected(graph, place, down, up),
            )


def _down_part(layer: Layer) -> str:
    return f"{layer.name}_down_bank"


def _up_part(place: Place) -> str:
    return f"{_name(place)}_up_bank"


def _name(place: Place) -> str:
    return f"{place.layer.name}_{place.begin}"


# Merged ---------------------------------------------------------------------------------------------------------


def _merge(graph: GraphEditor, place: Place, down: str, up: str) -> None:
    """The node becomes a product with weights of each group's own."""
    node, name = place.node, _name(place)
    output = node.output[0]
    x = _grouped(graph, place)
    outputs = place.end - place.begin
    if not place.is_conv:  # [G, n · T, inputs] · [G, inputs, outputs]
        weight = _sum(graph, name, _turned(graph, f"{place.layer.name}_down_turned", down), up, node.input[1])
        product = graph.add("MatMul", [x, weight], [f"{name}_grouped"])
        graph.add("Reshape", [product, numbers(graph, -1, place.row[0], outputs)], [output])
        return
    # [G, 1, outputs, inputs] · [G, n, inputs, h · w]
    flat = graph.add("Reshape", [node.input[1], numbers(graph, outputs, place.layer.inputs)], [f"{name}_weight"])
    weight = _sum(graph, name, _turned(graph, f"{name}_up_turned", up), down, flat)
    each = graph.add("Unsqueeze", [weight, numbers(graph, 1)], [f"{name}_weights"])
    product = graph.add("MatMul", [each, x], [f"{name}_grouped"])
    shape = numbers(graph, -1, outputs, *place.row[1:])
    if len(node.input) < 3:
        graph.add("Reshape", [product, shape], [output])
        return
    unbiased = graph.add("Reshape", [product, shape], [f"{name}_unbiased"])
    bias = graph.add("Reshape", [node.input[2], numbers(graph, outputs, 1, 1)], [f"{name}_bias"])
    graph.add("Add", [unbiased, bias], [output])


def _sum(graph: GraphEditor, name: str, left: str, right: str, weight: str) -> str:
    product = graph.add("MatMul", [left, right], [f"{name}_product"])
    return graph.add("Add", [product, weight], [f"{name}_merged"])


# Projected ------------------------------------------------------------------------------------------------------


def _add(graph: GraphEditor, place: Place, added: str) -> None:
    """The node's own product and what the LoRAs say, which is of any shape that holds the rows one after another."""
    name, output = _name(place), place.node.output[0]
    graph.rename_output(output, f"{name}_without")
    shape = graph.add("Shape", [f"{name}_without"], [f"{name}_shape"])
    if None not in place.row and not place.is_conv:
        shape = numbers(graph, -1, *place.row[:-1], place.end - place.begin)
    same = graph.add("Reshape", [added, shape], [f"{name}_added"])
    graph.add("Add", [f"{name}_without", same], [output])


def _projected(graph: GraphEditor, place: Place, down: str, up: str) -> str:
    """Of tokens [B, T, inputs] or of one vector a row [B, inputs], both as [G, many, inputs]."""
    layer = place.layer.name
    turned = _turned(graph, f"{layer}_down_turned", down)
    thin = graph.add("MatMul", [_grouped(graph, place), turned], [f"{layer}_thin"])
    return graph.add("MatMul", [thin, up], [f"{_name(place)}_thick"])


def _convolved(graph: GraphEditor, place: Place, down: str, up: str) -> str:
    """Of channels [B, inputs, h, w]. Every pixel is multiplied with the whole window, and what it sends to its
    neighbours is summed up by Col2Im."""
    layer, name = place.layer, _name(place)
    window = graph.add("Reshape", [down, numbers(graph, 0, 1, -1, layer.inputs)], [f"{name}_window"])
    thin = graph.add("MatMul", [window, _grouped(graph, place)], [f"{name}_thin"])
    if layer.kernel > 1:
        thin = _gathered(graph, place, thin)
    turned = _turned(graph, f"{name}_up_turned", up)
    each = graph.add("Unsqueeze", [turned, numbers(graph, 1)], [f"{name}_ups"])
    return graph.add("MatMul", [each, thin], [f"{name}_thick"])


def _gathered(graph: GraphEditor, place: Place, sent: str) -> str:
    """What pixels send, [G, n, R · kernel², pixels], as what pixels receive, [G, n, R, pixels of the output]."""
    name, kernel = _name(place), place.layer.kernel
    last = graph.add("Shape", [sent], [f"{name}_sent_shape"], start=2, end=4)
    shape = graph.add("Concat", [numbers(graph, -1), last], [f"{name}_rows_shape"], axis=0)
    rows = graph.add("Reshape", [sent, shape], [f"{name}_rows"])
    size = graph.add("Shape", [place.node.input[0]], [f"{name}_size"], start=2, end=4)
    block = numbers(graph, kernel, kernel)
    received = graph.add("Col2Im", [rows, size, block], [f"{name}_received"], pads=[kernel // 2] * 4)
    strides = next((list(a.ints) for a in place.node.attribute if a.name == "strides"), [1, 1])
    if strides != [1, 1]:
        ranges = [numbers(graph, *values) for values in ((0, 0), (_END, _END), (2, 3), tuple(strides))]
        received = graph.add("Slice", [received, *ranges], [f"{name}_strided"])
    return _in_groups(graph, received, f"{name}_gathered")


# Groups ---------------------------------------------------------------------------------------------------------


def _grouped(graph: GraphEditor, place: Place) -> str:
    """A node's input with its rows in groups: tokens [G, n · T, inputs], pixels [G, n, inputs, h · w]."""
    x, name = place.node.input[0], f"{place.node.input[0]}_in_groups"
    if place.is_conv:
        return _in_groups(graph, x, name)
    inputs = place.layer.inputs
    shape = graph.add("Concat", [GROUPS, numbers(graph, -1, inputs)], [f"lora_shape_{inputs}"], axis=0)
    return graph.add("Reshape", [x, shape], [name])


def _in_groups(graph: GraphEditor, x: str, name: str) -> str:
    """Images [B, c, h, w] as [G, n, c, h · w]."""
    flat = graph.add("Reshape", [x, numbers(graph, 0, 0, -1)], [f"{name}_flat"])
    last = graph.add("Shape", [flat], [f"{name}_last"], start=1, end=3)
    shape = graph.add("Concat", [GROUPS, numbers(graph, -1), last], [f"{name}_shape"], axis=0)
    return graph.add("Reshape", [flat, shape], [name])


def _turned(graph: GraphEditor, name: str, matrices: str) -> str:
    return graph.add("Transpose", [matrices], [name], perm=[0, 2, 1])


def numbers(graph: GraphEditor, *values: int | None, name: str = "") -> str:
    name = name or "lora_" + "_".join(str(value).replace("-", "minus_") for value in values)
    return graph.add_constant(name, np.array(values, np.int64))
