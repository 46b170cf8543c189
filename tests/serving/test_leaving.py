"""Requests that end early: cancelled by id, by hanging up, or by their deadline. The denoiser stops working on them."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
import tritonclient.grpc as grpcclient
from tritonclient.utils import InferenceServerException

from tests.serving.test_batching import wait_until_beyond
from tests.serving.triton_calls import PROMPT, cancel, generate, run_denoiser_op, tensor

pytestmark = pytest.mark.server

LONG = 200  # steps, the most that are allowed
PATIENCE_S = 60.0


def start(url: str, request_id: str) -> tuple[threading.Thread, list[Exception]]:
    """A long request in a thread; its error ends up in the list."""
    errors: list[Exception] = []

    def run() -> None:
        try:
            generate(url, seed=1, num_inference_steps=LONG, parameters={"request_id": request_id})
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, errors


def gone(url: str, request_id: str) -> bool:
    """Whether the denoiser forgets the request long before it would be done."""
    step, end = 0, time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        try:
            step, *_ = run_denoiser_op(url, "tiny-l", "peek", request_id)
        except InferenceServerException:
            return step < LONG / 2
        time.sleep(0.05)
    return False


def test_cancelled_by_id(server: Any) -> None:
    thread, errors = start(server.grpc_url, "mine")
    wait_until_beyond(server.grpc_url, "mine", 3)
    cancel(server.grpc_url, "mine")
    thread.join(timeout=PATIENCE_S)
    assert not thread.is_alive()
    assert "mine was cancelled" in str(errors[0])
    assert gone(server.grpc_url, "mine")


def test_cancelled_by_hanging_up(server: Any) -> None:
    with grpcclient.InferenceServerClient(server.grpc_url) as client:
        answers: list[Any] = []
        inputs = [tensor("prompt", [PROMPT]), tensor("num_inference_steps", [LONG])]
        call = client.async_infer(
            "generate",
            inputs,
            lambda result, error: answers.append((result, error)),
            parameters={"request_id": "hung-up"},
        )
        wait_until_beyond(server.grpc_url, "hung-up", 3)
        call.cancel()
        assert gone(server.grpc_url, "hung-up")


def test_cancelling_what_nobody_knows_is_not_found(server: Any) -> None:
    with pytest.raises(InferenceServerException, match="no request 'nobody' is being served") as caught:
        cancel(server.grpc_url, "nobody")
    assert caught.value.status() == "StatusCode.NOT_FOUND"


def test_a_deadline_ends_a_request_and_frees_the_denoiser(server: Any) -> None:
    with pytest.raises(InferenceServerException, match="deadline passed at step") as caught:
        generate(server.grpc_url, num_inference_steps=LONG, parameters={"deadline_ms": 250, "request_id": "late"})
    assert caught.value.status() == "StatusCode.UNAVAILABLE"
    assert gone(server.grpc_url, "late")


def test_an_id_in_use_is_refused_and_its_owner_unharmed(server: Any) -> None:
    thread, errors = start(server.grpc_url, "twin")
    wait_until_beyond(server.grpc_url, "twin", 1)
    with pytest.raises(InferenceServerException, match="request_id: got 'twin'"):
        generate(server.grpc_url, parameters={"request_id": "twin"})
    assert thread.is_alive() and not errors
    cancel(server.grpc_url, "twin")
    thread.join(timeout=PATIENCE_S)


def test_what_waits_at_the_other_door_can_be_cancelled_too(server: Any) -> None:
    """``generate_stream`` is another process with requests of its own, some of which no denoiser knows yet."""
    errors: dict[str, str] = {}
    done = threading.Event()

    def listen(result: Any, error: InferenceServerException | None) -> None:
        if error is not None:
            errors[str(error)] = str(error)
            done.set()

    with grpcclient.InferenceServerClient(server.grpc_url) as client:
        client.start_stream(listen)
        inputs = [tensor("prompt", [PROMPT]), tensor("num_inference_steps", [LONG])]
        parameters = {"request_id": "streamed", "previews": False}
        client.async_stream_infer("generate_stream", inputs, parameters=parameters)
        wait_until_beyond(server.grpc_url, "streamed", 1)
        cancel(server.grpc_url, "streamed")
        assert done.wait(PATIENCE_S)
        client.stop_stream()
    assert "streamed was cancelled" in next(iter(errors))
    with pytest.raises(InferenceServerException, match="no request 'streamed' is being served"):
        cancel(server.grpc_url, "streamed")
