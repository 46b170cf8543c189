"""Processes die. What follows costs time or a clear error, never silence, and the server goes on serving."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from tritonclient.utils import InferenceServerException

from tests.conftest import REPOSITORY
from tests.serving.test_batching import TOLERANCE, difference, wait_until_beyond
from tests.serving.triton_calls import generate

pytestmark = pytest.mark.server

REQUESTS = 4


@pytest.fixture(scope="module")
def own_server() -> Iterator[Any]:
    """A server for this module alone, because these tests do it no good."""
    from underpaint.server import EmbeddedServer, ServerOptions

    options = ServerOptions(model_repository=REPOSITORY, http_port=0, grpc_port=0, metrics_port=0)
    with EmbeddedServer(options) as running:
        yield running


class Held:
    """Several long requests under way at once; ``end`` gives what became of each."""

    def __init__(self, url: str, prefix: str, variant: str = "tiny-l", steps: int = 60) -> None:
        self.results: list[np.ndarray | Exception] = []
        fields = {"variant": variant, "num_inference_steps": steps}
        self._threads = [
            threading.Thread(target=self._run, args=(url, f"{prefix}-{i}", {"seed": i, **fields}))
            for i in range(REQUESTS)
        ]
        for thread in self._threads:
            thread.start()

    def end(self, timeout_s: float) -> list[np.ndarray | Exception]:
        limit = time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(timeout=max(0.0, limit - time.monotonic()))
        assert not any(thread.is_alive() for thread in self._threads), "a caller was left in silence"
        return self.results

    def _run(self, url: str, request_id: str, fields: dict[str, Any]) -> None:
        try:
            self.results.append(generate(url, parameters={"request_id": request_id}, **fields)[0])
        except Exception as error:
            self.results.append(error)


def kill(server: Any, model: str) -> None:
    pids = server.stub_pids(model)
    assert pids
    for pid in pids:
        os.kill(pid, signal.SIGKILL)


def serves_again(url: str, image: np.ndarray, timeout_s: float = 120.0) -> bool:
    """Whether the server paints ``image`` (seed 77, 4 steps) again before long."""
    return eventually(
        lambda: difference(generate(url, seed=77, num_inference_steps=4)[0], image) <= TOLERANCE, timeout_s
    )


def eventually(check: Callable[[], bool], timeout_s: float) -> bool:
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        try:
            return check()
        except InferenceServerException:
            time.sleep(0.3)
    return False


@pytest.fixture
def healthy(own_server: Any) -> np.ndarray:
    """What the server paints for seed 77 in 4 steps, when all is well."""
    return generate(own_server.grpc_url, seed=77, num_inference_steps=4)[0]


def test_requests_survive_the_death_of_the_unet(own_server: Any, healthy: np.ndarray) -> None:
    url = own_server.grpc_url
    expected = [generate(url, seed=i, num_inference_steps=60)[0] for i in range(REQUESTS)]
    held = Held(url, "unet")
    wait_until_beyond(url, "unet-0", 5)
    kill(own_server, "tiny-l_unet")
    images = held.end(timeout_s=180)
    assert not [image for image in images if isinstance(image, Exception)]
    for image in expected:
        assert min(difference(image, painted) for painted in images) <= TOLERANCE
    assert serves_again(url, healthy)


def test_the_death_of_a_denoiser_gives_its_callers_an_error(own_server: Any, healthy: np.ndarray) -> None:
    url = own_server.grpc_url
    held = Held(url, "denoiser", steps=200)
    other = Held(url, "other", variant="tiny-s", steps=150)
    wait_until_beyond(url, "denoiser-0", 3)
    kill(own_server, "tiny-l_denoiser")
    for error in held.end(timeout_s=60):
        assert isinstance(error, InferenceServerException)
        assert error.status() == "StatusCode.UNAVAILABLE"
    assert not [image for image in other.end(timeout_s=180) if isinstance(image, Exception)]
    assert serves_again(url, healthy)


def test_the_death_of_the_front_door_closes_its_callers_connections(own_server: Any, healthy: np.ndarray) -> None:
    held = Held(own_server.grpc_url, "door", steps=200)
    wait_until_beyond(own_server.grpc_url, "door-0", 3)
    kill(own_server, "generate")
    assert all(isinstance(error, InferenceServerException) for error in held.end(timeout_s=120))
    assert serves_again(own_server.grpc_url, healthy)


def test_a_second_server_paints_the_same(own_server: Any, server: Any, healthy: np.ndarray) -> None:
    """Another process paints the same image from the same seed."""
    assert difference(generate(server.grpc_url, seed=77, num_inference_steps=4)[0], healthy) <= TOLERANCE
