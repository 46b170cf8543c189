"""What a graph takes and gives, read from its file: so no config.pbtxt can contradict its model.onnx."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import onnx
from onnx import TensorProto, ValueInfoProto

from underpaint.errors import NotFound, Unsupported

_TRITON_TYPES = {
    TensorProto.FLOAT: "FP32",
    TensorProto.FLOAT16: "FP16",
    TensorProto.BFLOAT16: "BF16",
    TensorProto.INT32: "INT32",
    TensorProto.INT64: "INT64",
    TensorProto.UINT8: "UINT8",
    TensorProto.BOOL: "BOOL",
}


@dataclass(frozen=True)
class TensorSpec:
    """A tensor's type as config.pbtxt spells it, and its dimensions, the batch's first; a string names an open one."""

    name: str
    dtype: str
    dims: tuple[int | str, ...]

    @property
    def row(self) -> list[int]:
        """The dimensions of one row of a batch, -1 for an open one."""
        return self.declared[1:]

    @property
    def declared(self) -> list[int]:
        """All dimensions, -1 for an open one."""
        return [dim if isinstance(dim, int) else -1 for dim in self.dims]


@dataclass(frozen=True)
class Signature:
    """The inputs and outputs of a graph, by name and in its order."""

    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]

    @classmethod
    def read(cls, path: Path) -> Signature:
        """Of an ONNX file; its weights are left alone.

        Raises:
            NotFound: there is none.
        """
        if not path.is_file():
            raise NotFound(f"{path} is missing: train or export the family before its repository is rendered")
        return _read(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=256)
def _read(path: Path, _changed_ns: int) -> Signature:
    graph = onnx.load(path, load_external_data=False).graph
    return Signature(_specs(graph.input), _specs(graph.output))


def _specs(values: Iterable[ValueInfoProto]) -> dict[str, TensorSpec]:
    return {value.name: _spec(value) for value in values}


def _spec(value: ValueInfoProto) -> TensorSpec:
    tensor = value.type.tensor_type
    if tensor.elem_type not in _TRITON_TYPES:
        raise Unsupported(f"{value.name} is of type {TensorProto.DataType.Name(tensor.elem_type)}, which Triton lacks")
    dims = (dim.dim_value if dim.HasField("dim_value") else dim.dim_param for dim in tensor.shape.dim)
    return TensorSpec(value.name, _TRITON_TYPES[tensor.elem_type], tuple(dims))
