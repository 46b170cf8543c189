"""numpy to Triton's Python tensors and back; strings travel as object arrays of bytes."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from underpaint.errors import InvalidArgument
from underpaint.front_door.transport import Tensors


def inputs_of(request: Any, *names: str) -> dict[str, np.ndarray]:
    """Every input that the request carries, or those of these names, by name."""
    tensors = ((tensor.name(), tensor) for tensor in request.inputs())
    return {name: tensor.as_numpy() for name, tensor in tensors if not names or name in names}


def parameters_of(request: Any) -> dict[str, Any]:
    """The request's parameters, without those that Triton itself puts there."""
    raw = json.loads(request.parameters() or "{}")
    return {name: value for name, value in raw.items() if not name.startswith("triton_")}


def scalar(tensors: Tensors, name: str, default: Any = None) -> Any:
    """The single value of an input as plain Python (bytes for strings), or ``default`` where it is absent.

    Raises:
        InvalidArgument: it holds more or fewer values than one.
    """
    if name not in tensors:
        return default
    values = tensors[name].reshape(-1)
    if len(values) != 1:
        raise InvalidArgument.of(name, f"{len(values)} values", "one value")
    return values[0] if isinstance(values[0], bytes) else values[0].item()


def needed(tensors: Tensors, name: str) -> np.ndarray:
    """An input that this operation cannot do without. Raises InvalidArgument where it is absent."""
    if name not in tensors:
        raise InvalidArgument.of(name, None, "a tensor; this op needs it")
    return tensors[name]


def text(tensors: Tensors, name: str, default: str = "") -> str:
    """The single value of a STRING input."""
    value = scalar(tensors, name)
    return default if value is None else value.decode("utf-8", errors="replace")


def strings(*values: str | bytes) -> np.ndarray:
    """A STRING tensor of shape [len(values)]."""
    return np.array([v.encode() if isinstance(v, str) else v for v in values], dtype=np.object_)


def to_triton(tensors: Tensors) -> list[Any]:
    """The tensors of a request or response; arrays are made contiguous, since Triton reads raw memory."""
    return [pb_utils.Tensor(name, np.ascontiguousarray(array)) for name, array in tensors.items()]
