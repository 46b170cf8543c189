"""Typed requests to tensors, and tensors to pictures: all that the clients do beside waiting. No I/O in here."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, TypedDict

import numpy as np

from underpaint.client.pictures import Picture, Progress
from underpaint.errors import InvalidArgument
from underpaint.front_door.outcome import Outcome
from underpaint.front_door.transport import Parameters, Tensors
from underpaint.requests import GenerateRequest

MODEL = "generate"
STREAM_MODEL = "generate_stream"

# How much longer than its deadline a client waits: the server ends the request by itself, unless it cannot.
_GRACE_S = 5.0
_NUMPY: dict[str, Any] = {"INT64": np.int64, "FP32": np.float32}


class Wishes(TypedDict, total=False):
    """What can be said of a picture beside its prompt: the fields of ``GenerateRequest``, for type checkers."""

    negative_prompt: str
    num_inference_steps: int | None
    guidance_scale: float | None
    seed: int | None
    width: int | None
    height: int | None
    scheduler: str | None
    variant: str | None
    policy: str | None
    cache: str
    lora: str | None
    on_missing_lora: str | None
    controlnet: str | None
    control_image: np.ndarray | None
    controlnet_stale: bool
    guidance_split: bool
    tenant: str
    request_id: str | None
    deadline_ms: int | None
    slo_ms: int | None
    service_class: str
    previews: bool


@dataclass(frozen=True, eq=False)
class Call:
    """One inference request, ready for any protocol. Strings are object arrays of bytes."""

    model: str
    inputs: Tensors
    parameters: Parameters


def request_of(prompt: str, wishes: Mapping[str, Any]) -> GenerateRequest:
    """The typed request, checked here before it costs a round trip, and with an id so that it can be cancelled.

    Raises:
        InvalidArgument: a name is unknown, or a value has the wrong type or is out of range.
    """
    request = GenerateRequest.parse({"prompt": prompt, **wishes})
    return replace(request, request_id=request.request_id or uuid.uuid4().hex)


def run_call(model: str, request: GenerateRequest) -> Call:
    """Ask ``model`` for the picture. What the request leaves open is not sent."""
    wanted = {f: value for f in fields(request) if not _left_open(value := getattr(request, f.name), f.default)}
    inputs = {f.name: _tensor(f.name, dtype, value) for f, value in wanted.items() if (dtype := f.metadata["dtype"])}
    parameters = {f.name: value for f, value in wanted.items() if not f.metadata["dtype"]}
    return Call(model, inputs, parameters)


def cancel_call(request_id: str) -> Call:
    """Ask the front door to drop a request."""
    return Call(MODEL, {"op": _tensor("op", "STRING", "cancel")}, {"request_id": request_id})


def patience_s(request: GenerateRequest, timeout_s: float | None) -> float | None:
    """How long to wait for an answer; None is as long as it takes."""
    if timeout_s is not None or request.deadline_ms is None:
        return timeout_s
    return request.deadline_ms / 1000 + _GRACE_S


def picture_of(tensors: Tensors) -> Picture:
    """The picture in the answer of ``generate``, or in the last one of ``generate_stream``."""
    return Picture(tensors["image"], Outcome.from_json(tensors["outcome"].item()))


def event_of(tensors: Tensors) -> Progress | Picture:
    """What one answer of ``generate_stream`` says."""
    if "outcome" in tensors:
        return picture_of(tensors)
    step, total = (int(n) for n in tensors["progress"])
    return Progress(step, total, tensors.get("image"))


def _left_open(value: Any, default: Any) -> bool:
    return not isinstance(value, np.ndarray) and bool(value == default)


def _tensor(name: str, dtype: str, value: Any) -> np.ndarray:
    if isinstance(value, np.ndarray):
        return value
    if isinstance(value, str):
        return np.array([_encode(name, value)], dtype=np.object_)
    wanted = np.dtype(_NUMPY[dtype])
    limits = np.finfo(wanted) if wanted.kind == "f" else np.iinfo(wanted)
    if not limits.min <= value <= limits.max:
        raise InvalidArgument.of(name, value, f"at most {limits.max}")
    return np.array([value], dtype=wanted)


def _encode(name: str, text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:  # half a surrogate pair, as a shell makes of bytes that are no UTF-8
        raise InvalidArgument.of(name, text, "text that can be written as UTF-8") from None
