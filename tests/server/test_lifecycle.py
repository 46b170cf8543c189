"""Start and stop: what is left behind (nothing), and what the command answers with."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from underpaint.errors import ServerStartError
from underpaint.server import EmbeddedServer, ServerOptions
from underpaint.server.policy import RestartLimits

from . import toys
from .conftest import any_ports

pytestmark = pytest.mark.server

X = np.ones((1, 2), np.float32)


def descendants(pid):
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def traces(owner_pid):
    """What a server that was started by a process may leave: its shared memory and its private folder."""
    memory = Path("/dev/shm").glob(f"underpaint-{owner_pid}-*")
    return [*memory, *Path(os.environ.get("TMPDIR", "/tmp")).glob(f"underpaint-{owner_pid}-*")]


def gone(processes, owner_pid, within_s):
    return toys.eventually(lambda: not any(map(psutil.Process.is_running, processes)), within_s) and toys.eventually(
        lambda: not traces(owner_pid), 10.0
    )


@pytest.fixture
def small(tmp_path):
    toys.python_model(tmp_path, "block", toys.BLOCKING)
    toys.python_model(tmp_path, "hold", toys.HOLDING)
    return tmp_path


def test_nothing_is_left_after_the_with_block(small):
    before = set(traces(os.getpid()))
    with EmbeddedServer(any_ports(small)) as server:
        processes = [psutil.Process(server.pid), *descendants(server.pid)]
        assert len(processes) == 3
        assert set(traces(os.getpid())) > before
        assert toys.infer(server.http_url, "block", x=X)["y"].tolist() == [[2.0, 2.0]]
    assert not any(map(psutil.Process.is_running, processes))
    assert set(traces(os.getpid())) == before


def test_a_model_that_does_not_load_ends_the_start(small):
    before = set(traces(os.getpid()))
    toys.python_model(small, "broken", "import no_such_module\nclass TritonPythonModel:\n    pass\n")
    with pytest.raises(ServerStartError, match=r"^model broken does not load: .*no_such_module") as caught:
        EmbeddedServer(any_ports(small)).start()
    assert "\n" not in str(caught.value)
    assert set(traces(os.getpid())) == before


def test_an_onnx_model_that_does_not_load_says_why(tmp_path):
    config = toys.LINEAR.replace('name: "t"', 'name: "u"')
    toys.onnx_model(tmp_path, "linear", toys.linear_graph(np.ones((4, 3))), config)
    why = "linear: config.pbtxt declares the input u, the graph has x, t"
    with pytest.raises(ServerStartError, match=rf"^model linear does not load: .*{why}$"):
        EmbeddedServer(any_ports(tmp_path)).start()


def test_a_model_that_dies_again_and_again_is_given_up(small):
    limits = RestartLimits(burst=1)
    with EmbeddedServer(any_ports(small, restarts=limits)) as server:
        (first,) = server.stub_pids("block")
        os.kill(first, signal.SIGKILL)
        assert toys.eventually(lambda: isinstance(toys.infer(server.http_url, "block", x=X), dict), within_s=60)
        (second,) = server.stub_pids("block")
        os.kill(second, signal.SIGKILL)

        def refused():
            answer = toys.infer(server.http_url, "block", x=X)
            return answer == (404, "Request for unknown model: 'block' has no available versions")

        assert toys.eventually(refused, within_s=60)
        assert toys.infer(server.http_url, "hold", x=X)["y"].tolist() == [[2.0, 2.0]]


class Serve:
    """``underpaint serve`` as a process, up to its being ready."""

    def __init__(self, repository):
        ports = [f"--{name}-port=0" for name in ("http", "grpc", "metrics")]
        command = [sys.executable, "-m", "underpaint.server", "serve", f"--model-repository={repository}", *ports]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
        self.pid = self.process.pid
        self.output = ""
        for line in self.process.stderr:
            self.output += line
            if "ready: HTTP" in line:
                break
        self.url = re.search(r"ready: HTTP (\S+),", self.output)[1]
        self.family = descendants(self.pid)

    def end(self):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.process.communicate()


@pytest.fixture
def serve(small):
    command = Serve(small)
    yield command
    command.end()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_the_command_cleanly(serve, number):
    assert len(serve.family) == 4, "guardian, tritonserver, two models"
    os.killpg(serve.pid, number)  # as a terminal does: the whole group
    assert serve.process.wait(timeout=60) == 0
    assert gone(serve.family, serve.pid, within_s=10)
    assert "Traceback" not in serve.output + serve.process.stderr.read()


def test_a_second_signal_does_not_wait_for_requests(serve):
    caller = threading.Thread(target=call_and_lose, args=(serve.url,))
    caller.start()
    time.sleep(0.5)
    start = time.monotonic()
    os.kill(serve.pid, signal.SIGINT)
    time.sleep(1.0)
    os.kill(serve.pid, signal.SIGINT)
    assert serve.process.wait(timeout=60) == 130
    assert time.monotonic() - start < ServerOptions.stop_grace_s, "which the request would have been waited for"
    caller.join(timeout=60)
    assert not caller.is_alive()
    assert gone(serve.family, serve.pid, within_s=10)


def call_and_lose(url):
    with pytest.raises(OSError):
        toys.infer(url, "hold", parameters={"sleep_ms": 60_000}, x=X)


def test_nothing_is_left_when_the_command_is_killed(serve):
    os.kill(serve.pid, signal.SIGKILL)
    assert gone(serve.family, serve.pid, within_s=20)


def test_nothing_is_left_when_the_guardian_is_killed(small):
    before = set(traces(os.getpid()))
    with EmbeddedServer(any_ports(small, restarts=RestartLimits(burst=0))) as server:
        processes = [psutil.Process(server.pid), *descendants(server.pid)]
        processes[0].parent().kill()
        server.wait()
    assert "killed by SIGKILL" in server.failure
    assert toys.eventually(lambda: not any(map(psutil.Process.is_running, processes)), within_s=30)
    assert set(traces(os.getpid())) == before


def test_a_server_that_keeps_dying_is_given_up(small):
    with EmbeddedServer(any_ports(small, restarts=RestartLimits(burst=1))) as server:
        first = server.pid
        os.kill(first, signal.SIGKILL)
        assert toys.eventually(lambda: server.pid != first, within_s=60)
        server.wait_ready()
        os.kill(server.pid, signal.SIGKILL)
        server.wait()
    assert server.failure.startswith("tritonserver ended by itself (killed by SIGKILL")
    assert server.failure.endswith("giving up after 1 restarts")
