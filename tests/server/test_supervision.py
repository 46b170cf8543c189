"""Model processes that die or hang, under real requests: nobody waits for ever, and the model serves again."""

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from . import toys

pytestmark = pytest.mark.server

X = np.ones((1, 2), np.float32)


@pytest.fixture(autouse=True)
def recovered(server):
    server.wait_ready()


@pytest.fixture
def callers():
    with ThreadPoolExecutor(4) as pool:
        yield pool


def call_later(callers, server, model, sleep_ms, timeout_s=20.0):
    future = callers.submit(toys.infer, server.http_url, model, timeout_s, {"sleep_ms": sleep_ms}, x=X)
    time.sleep(0.3)
    return future


def signal_stub(server, model, number):
    (pid,) = server.stub_pids(model)
    os.kill(pid, number)
    return pid


def replaced(server, model, dead):
    """Whether another process serves the model. Asks the model nothing: a dead one would never get over that."""
    pids = server.stub_pids(model)
    return len(pids) == 1 and dead not in pids


def serves(server, model):
    answer = toys.infer(server.http_url, model, timeout_s=10.0, x=X)
    return isinstance(answer, dict) and answer["y"].tolist() == [[2.0, 2.0]]


def test_a_blocking_model_that_dies(server, callers):
    waiting = call_later(callers, server, "pipeline", sleep_ms=60_000, timeout_s=90.0)
    tritonserver, dead = server.pid, signal_stub(server, "block", signal.SIGKILL)
    status, message = waiting.result(timeout=30)
    assert (status, "is not healthy" in message) == (500, True)
    assert toys.eventually(lambda: replaced(server, "block", dead) and serves(server, "pipeline"), within_s=60)
    assert server.pid == tritonserver


def test_a_model_that_holds_requests_dies_idle(server):
    tritonserver, dead = server.pid, signal_stub(server, "hold_quietly", signal.SIGKILL)
    assert toys.eventually(lambda: replaced(server, "hold_quietly", dead), within_s=60)
    time.sleep(5)
    assert server.pid == tritonserver, "no reason to restart it"
    assert serves(server, "hold_quietly")


def test_a_held_child_that_dies_costs_only_itself(server, callers):
    waiting = call_later(callers, server, "hold_child", sleep_ms=60_000, timeout_s=5.0)
    tritonserver, dead = server.pid, signal_stub(server, "hold_child", signal.SIGKILL)
    assert toys.eventually(lambda: replaced(server, "hold_child", dead) and serves(server, "hold_child"), within_s=60)
    with pytest.raises(TimeoutError):
        waiting.result(timeout=60)
    assert server.pid == tritonserver


def test_a_model_that_hangs_is_replaced(server):
    tritonserver, hung = server.pid, signal_stub(server, "hold_child", signal.SIGSTOP)
    assert toys.eventually(lambda: replaced(server, "hold_child", hung) and serves(server, "hold_child"), within_s=60)
    assert server.pid == tritonserver


def test_a_model_that_dies_with_requests_releases_their_callers(server, callers):
    waiting = call_later(callers, server, "hold", sleep_ms=600_000, timeout_s=90.0)
    tritonserver = server.pid
    signal_stub(server, "hold", signal.SIGKILL)
    with pytest.raises(OSError) as caught:
        waiting.result(timeout=60)
    assert not isinstance(caught.value, TimeoutError), "its connection was closed"
    assert toys.eventually(lambda: server.pid != tritonserver and serves(server, "hold"), within_s=60)


def test_a_tritonserver_that_dies_is_started_again(server):
    tritonserver = server.pid
    os.kill(tritonserver, signal.SIGKILL)
    assert toys.eventually(lambda: server.pid != tritonserver and serves(server, "pipeline"), within_s=60)
    server.wait_ready()
