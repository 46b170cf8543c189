"""Triton's gRPC protocol: calls to messages, messages to tensors, failures to errors. Shared by both transports."""

from __future__ import annotations

from typing import Any

import grpc
import numpy as np
from tritonclient.grpc import service_pb2
from tritonclient.utils import deserialize_bytes_tensor, np_to_triton_dtype, serialize_byte_tensor, triton_to_np_dtype

from underpaint.client import failures
from underpaint.client.address import Address
from underpaint.client.messages import Call
from underpaint.errors import UnderpaintError, from_status
from underpaint.front_door.transport import Tensors

CHANNEL_OPTIONS = (
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),  # images are larger than gRPC's 4 MB
    ("grpc.max_reconnect_backoff_ms", 1000),  # a server that restarts is found again soon, not after two minutes
)
# Without it, Triton reports an error within a stream as text without a status.
STREAM_METADATA = (("triton_grpc_error", "true"),)

_STATUSES = {
    grpc.StatusCode.INVALID_ARGUMENT: "INVALID_ARG",
    grpc.StatusCode.NOT_FOUND: "NOT_FOUND",
    grpc.StatusCode.UNAVAILABLE: "UNAVAILABLE",
    grpc.StatusCode.CANCELLED: "CANCELLED",
    grpc.StatusCode.UNIMPLEMENTED: "UNSUPPORTED",
}
# What gRPC itself says, under the same status UNAVAILABLE that a server uses for its own errors.
_NOT_CONNECTED = ("failed to connect", "errors resolving", "DNS resolution failed")
_CONNECTION_LOST = (
    "Socket closed",
    "Connection reset",
    "Broken pipe",
    "GOAWAY",
    "Stream removed",
    "recvmsg",
    "end of TCP stream",
)


def to_message(call: Call) -> Any:
    """A ``ModelInferRequest``."""
    message = service_pb2.ModelInferRequest(model_name=call.model)
    for name, value in call.parameters.items():
        _set_parameter(message.parameters[name], value)
    for name, array in call.inputs.items():
        message.inputs.add(name=name, shape=array.shape, datatype=np_to_triton_dtype(array.dtype))
        message.raw_input_contents.append(_to_bytes(array))
    return message


def from_message(message: Any) -> dict[str, np.ndarray]:
    """The outputs of a ``ModelInferResponse``."""
    contents = zip(message.outputs, message.raw_output_contents, strict=True)
    return {output.name: _from_bytes(output, raw) for output, raw in contents}


def from_stream_message(message: Any) -> Tensors:
    """The outputs of a ``ModelStreamInferResponse``, or the error that it carries."""
    if message.error_message:  # from a server that does not know STREAM_METADATA
        raise from_status("INTERNAL", message.error_message)
    return from_message(message.infer_response)


def to_error(error: Any, address: Address, timeout_s: float | None) -> UnderpaintError:
    """What a ``grpc.RpcError``, of either kind of channel, means for the caller."""
    code, details = error.code(), error.details() or ""
    if code == grpc.StatusCode.DEADLINE_EXCEEDED:  # ours: Triton does not use this status
        return failures.no_answer(address, timeout_s)
    if details.startswith(_NOT_CONNECTED):
        # Something accepted the connection and hung up on hearing gRPC.
        greeted = details.endswith("Socket closed") or "http1.x server" in details
        return failures.wrong_protocol(address) if greeted else failures.no_server(address)
    if any(phrase in details for phrase in _CONNECTION_LOST):
        return failures.connection_lost(address, details)
    return failures.of_server(_STATUSES.get(code, "INTERNAL"), details)


def _set_parameter(parameter: Any, value: str | int | bool) -> None:
    if isinstance(value, bool):  # a bool is an int, too
        parameter.bool_param = value
    elif isinstance(value, int):
        parameter.int64_param = value
    else:
        parameter.string_param = value


def _to_bytes(array: np.ndarray) -> bytes:
    return serialize_byte_tensor(array).item() if array.dtype == np.object_ else array.tobytes()


def _from_bytes(output: Any, raw: bytes) -> np.ndarray:
    shape = tuple(output.shape)
    if output.datatype == "BYTES":
        return deserialize_bytes_tensor(raw).reshape(shape)
    return np.frombuffer(raw, triton_to_np_dtype(output.datatype)).reshape(shape).copy()  # callers may write to it
