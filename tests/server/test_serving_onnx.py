"""The Python-based onnxruntime backend inside a real server."""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from underpaint.server.control import ControlClient

from . import toys
from .conftest import WEIGHT

pytestmark = pytest.mark.server


def ask(server, model, rows, width=4, first=0.0):
    x = np.arange(rows * width, dtype=np.float32).reshape(rows, width) + np.float32(first)
    t = np.arange(rows, dtype=np.float32).reshape(rows, 1)
    return x, t, toys.infer(server.http_url, model, x=x, t=t)


def test_an_answer_is_that_of_the_graph(server):
    x, t, outputs = ask(server, "linear", rows=2)
    np.testing.assert_allclose(outputs["y"], x @ WEIGHT + t)


def test_requests_that_meet_run_as_one_batch(server):
    before = toys.statistics(server.http_url, "linear")
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda n: ask(server, "linear", rows=1 + n % 2, first=n), range(4)))
    after = toys.statistics(server.http_url, "linear")
    for x, t, outputs in answers:
        np.testing.assert_allclose(outputs["y"], x @ WEIGHT + t)
    assert after["inference_count"] - before["inference_count"] == 6
    assert after["execution_count"] - before["execution_count"] < 4


def test_a_wrong_shape_fails_alone(server):
    with ThreadPoolExecutor(3) as pool:
        widths = [4, 5, 4]
        answers = [each[2] for each in pool.map(lambda width: ask(server, "linear", 1, width), widths)]
    assert [isinstance(answer, dict) for answer in answers] == [True, False, True]
    status, message = answers[1]
    assert status == 400 and "imension" in message


def test_each_instance_is_a_process(server):
    assert len(server.stub_pids("linear")) == 1
    assert len(server.stub_pids("linear_twice")) == 2


def test_a_network_has_no_threads_for_calls_to_other_models(server):
    client, threads = ControlClient(server.options.local_host, server.options.http_port), []
    for count in (1, 3, 1):
        config = client.config("linear")
        config["instance_group"][0]["count"] = count
        client.load("linear", timeout_s=30, config=config)
        threads.append(len(list(Path(f"/proc/{server.pid}/task").iterdir())))
    assert threads[1] - threads[0] < server.options.bls_threads


def test_instances_come_and_go_without_a_reload(server):
    """What the monitor does: the server's own configuration again, with another instance count."""
    client = ControlClient(server.options.local_host, server.options.http_port)
    for count in (3, 1):
        before = set(server.stub_pids("linear"))
        config = client.config("linear")
        config["instance_group"][0]["count"] = count
        client.load("linear", timeout_s=30, config=config)
        assert toys.eventually(lambda count=count: len(server.stub_pids("linear")) == count, within_s=30)
        time.sleep(1.2)  # two looks of the supervisor
        after = set(server.stub_pids("linear"))
        assert before < after or after < before, "the others were left alone"


def test_warm_up_ran_before_the_model_was_ready(server):
    batches = toys.statistics(server.http_url, "linear")["batch_stats"]
    warmed = next(each for each in batches if each["batch_size"] == 2)
    assert warmed["compute_infer"]["count"] >= 3
