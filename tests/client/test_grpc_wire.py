"""Triton's gRPC messages, written and read back without a server."""

from __future__ import annotations

from dataclasses import dataclass

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2

from underpaint.client.address import Address
from underpaint.client.grpc_wire import from_message, from_stream_message, to_error, to_message
from underpaint.client.messages import Call, request_of, run_call
from underpaint.errors import (
    Cancelled,
    DeadlineExceeded,
    Internal,
    InvalidArgument,
    NotFound,
    Unavailable,
    UnderpaintError,
    Unsupported,
)

HERE = Address.parse("localhost:8001")


@dataclass
class RpcError:
    """As much of a ``grpc.RpcError`` as is looked at."""

    status: grpc.StatusCode
    text: str

    def code(self) -> grpc.StatusCode:
        return self.status

    def details(self) -> str:
        return self.text


def echo(message: service_pb2.ModelInferRequest) -> service_pb2.ModelInferResponse:
    """An answer whose outputs are the inputs of a request."""
    answer = service_pb2.ModelInferResponse(model_name=message.model_name)
    for tensor in message.inputs:
        answer.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
    answer.raw_output_contents.extend(message.raw_input_contents)
    return answer


def test_tensors_survive_the_wire() -> None:
    inputs = {
        "prompt": np.array(["Gemälde 🎨".encode(), b""], np.object_),
        "seed": np.array([2**62], np.int64),
        "guidance_scale": np.array([[7.5]], np.float32),
        "image": np.arange(24, dtype=np.uint8).reshape(2, 4, 3),
    }
    back = from_message(echo(to_message(Call("generate", inputs, {}))))
    assert list(back) == list(inputs)
    for name, array in inputs.items():
        assert back[name].shape == array.shape
        assert (back[name] == array).all()
    back["image"][0] = 0  # writable, for those who paint on


def test_parameters_keep_their_types() -> None:
    message = to_message(Call("generate", {}, {"request_id": "me", "deadline_ms": 500, "flag": True}))
    kinds = {name: parameter.WhichOneof("parameter_choice") for name, parameter in message.parameters.items()}
    assert kinds == {"request_id": "string_param", "deadline_ms": "int64_param", "flag": "bool_param"}


def test_a_request_as_it_is_sent() -> None:
    message = to_message(run_call("generate", request_of("a red circle", {"seed": 1})))
    sent = {tensor.name: (tensor.datatype, list(tensor.shape)) for tensor in message.inputs}
    assert sent["prompt"] == ("BYTES", [1]) and sent["seed"] == ("INT64", [1])


@pytest.mark.parametrize(
    ("code", "text", "kind"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, "seed: got -1; allowed: 0 or more", InvalidArgument),
        (grpc.StatusCode.NOT_FOUND, "request_id: no request 'x' is being served", NotFound),
        (grpc.StatusCode.UNAVAILABLE, "256 requests are being served, the limit; try again later", Unavailable),
        (grpc.StatusCode.UNAVAILABLE, "deadline passed at step 3 of 25", DeadlineExceeded),
        (grpc.StatusCode.CANCELLED, "request me was cancelled at step 3", Cancelled),
        (grpc.StatusCode.UNIMPLEMENTED, "not here", Unsupported),
        (grpc.StatusCode.INTERNAL, "ValueError: oh", Internal),
        (grpc.StatusCode.UNKNOWN, "what", Internal),
    ],
)
def test_the_servers_own_errors_keep_their_words(code: grpc.StatusCode, text: str, kind: type[UnderpaintError]) -> None:
    error = to_error(RpcError(code, text), HERE, None)
    assert type(error) is kind and str(error) == text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("failed to connect to all addresses; last error: Connection refused", "start one with `underpaint serve`"),
        ("errors resolving nohost:1: not found", "start one with `underpaint serve`"),
        ("failed to connect to all addresses; last error: UNAVAILABLE: Socket closed", "does not speak gRPC"),
        ("Socket closed", "lost the connection to localhost:8001"),
        ("recvmsg:Connection reset by peer", "lost the connection to localhost:8001"),
    ],
)
def test_transport_failures_say_what_to_do(text: str, said: str) -> None:
    error = to_error(RpcError(grpc.StatusCode.UNAVAILABLE, text), HERE, None)
    assert type(error) is Unavailable and said in str(error)


def test_our_own_timeout() -> None:
    error = to_error(RpcError(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded"), HERE, 2.5)
    assert type(error) is DeadlineExceeded and "within 2.5 s" in str(error)


def test_an_error_within_a_stream() -> None:
    with pytest.raises(Internal, match="oh"):
        from_stream_message(service_pb2.ModelStreamInferResponse(error_message="oh"))
