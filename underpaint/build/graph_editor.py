"""A graph while it is being rewritten: who makes a tensor, who reads it, and what takes a node's place."""

from __future__ import annotations

from collections.abc import Iterable
from graphlib import TopologicalSorter
from typing import Any

import numpy as np
from onnx import GraphProto, NodeProto, TensorProto, helper, numpy_helper


class GraphEditor:
    """Nodes whose outputs nobody reads any more need not be removed: ``write_back`` leaves them out."""

    def __init__(self, graph: GraphProto) -> None:
        self._graph = graph
        self._nodes = list(graph.node)
        self._tensors = {tensor.name: tensor for tensor in graph.initializer}
        self._index()

    def of_type(self, op_type: str) -> list[NodeProto]:
        return [node for node in self._nodes if node.op_type == op_type]

    def maker(self, tensor: str, op_type: str) -> NodeProto | None:
        """The node that computes a tensor, if it is of this type."""
        node = self._makers.get(tensor)
        return node if node is not None and node.op_type == op_type else None

    def reader(self, tensor: str, op_type: str) -> NodeProto | None:
        """The node that reads a tensor, if it is of this type and the only one."""
        readers = self._readers.get(tensor, [])
        return readers[0] if len(readers) == 1 and readers[0].op_type == op_type else None

    def up(self, tensor: str, *op_types: str) -> str | None:
        """What goes in (as first input) at the far end of a chain of nodes that ends in ``tensor``."""
        for op_type in op_types:
            node = self.maker(tensor, op_type)
            if node is None:
                return None
            tensor = node.input[0]
        return tensor

    def constant(self, tensor: str) -> np.ndarray | None:
        """The value of a small constant; None for a weight and for what is computed."""
        proto = self._tensors.get(tensor)
        if proto is None or proto.data_location == TensorProto.EXTERNAL:
            return None
        return numpy_helper.to_array(proto)

    def weight_shape(self, tensor: str) -> tuple[int, ...] | None:
        """The shape of a weight, which is a reference into the safetensors file, maybe cast; None for anything else."""
        stored = self._tensors.get(self.up(tensor, "Cast") or tensor)
        is_weight = stored is not None and stored.data_location == TensorProto.EXTERNAL
        return tuple(stored.dims) if stored is not None and is_weight else None

    def weight_type(self, tensor: str) -> int:
        """The type, as ONNX counts them, in which a weight is computed with."""
        cast = self.maker(tensor, "Cast")
        if cast is None:
            return int(self._tensors[tensor].data_type)
        return int(next(attribute.i for attribute in cast.attribute if attribute.name == "to"))

    def stored_shape(self, tensor: str) -> tuple[int, ...]:
        """The shape of a tensor that the graph holds or refers to."""
        return tuple(self._tensors[tensor].dims)

    def add_constant(self, name: str, value: np.ndarray) -> str:
        """A constant by this name, which is the same one wherever it is asked for."""
        self._tensors.setdefault(name, numpy_helper.from_array(value, name))
        return name

    def add(self, op_type: str, inputs: Iterable[str], outputs: Iterable[str], domain: str = "", **given: Any) -> str:
        """A new node, named after its first output, which it returns; it takes the place of whoever made the same."""
        outputs = list(outputs)
        made = set(filter(None, outputs))
        node = helper.make_node(op_type, list(inputs), outputs, name=f"{outputs[0]}_node", domain=domain, **given)
        if self._makers.get(outputs[0]) == node:
            return outputs[0]
        if any(name in self._makers for name in made):
            self._nodes = [node for node in self._nodes if not made.intersection(node.output)]
            self._index()
        self._nodes.append(node)
        self._note(node)
        return outputs[0]

    def rename_output(self, old: str, new: str) -> None:
        """What a node made under the old name it makes under the new one; its readers wait for another maker."""
        node = self._makers.pop(old)
        node.output[:] = [new if name == old else name for name in node.output]
        node.name = f"{new}_node"
        self._makers[new] = node

    def write_back(self) -> None:
        """Nodes in an order in which they can run, without those that nobody needs, nor their constants."""
        needed = self._in_order(output.name for output in self._graph.output)
        used = {name for node in needed for name in node.input}
        del self._graph.node[:], self._graph.initializer[:]
        self._graph.node.extend(needed)
        self._graph.initializer.extend(tensor for name, tensor in self._tensors.items() if name in used)

    def _in_order(self, wanted: Iterable[str]) -> list[NodeProto]:
        before: dict[str, set[str]] = {}
        open_ends = [self._makers[name] for name in wanted]
        while open_ends:
            node = open_ends.pop()
            if node.output[0] not in before:
                makers = [self._makers[name] for name in node.input if name in self._makers]
                before[node.output[0]] = {maker.output[0] for maker in makers}
                open_ends.extend(makers)
        position = {node.output[0]: i for i, node in enumerate(self._nodes)}
        listed = {
            name: sorted(before[name], key=position.__getitem__) for name in sorted(before, key=position.__getitem__)
        }
        return [self._makers[name] for name in TopologicalSorter(listed).static_order()]

    def _index(self) -> None:
        self._makers: dict[str, NodeProto] = {}
        self._readers: dict[str, list[NodeProto]] = {}
        for node in self._nodes:
            self._note(node)

    def _note(self, node: NodeProto) -> None:
        self._makers.update((output, node) for output in node.output if output)
        for name in set(node.input):
            self._readers.setdefault(name, []).append(node)
