"""One server of toy models for the tests that do not end it."""

import numpy as np
import pytest

from underpaint.server import EmbeddedServer, ServerOptions

from . import toys

WEIGHT = np.arange(12, dtype=np.float32).reshape(4, 3)
ONE = "instance_group { count: 1 }\n"
DELAY = "dynamic_batching { max_queue_delay_microseconds: 300000 }\n"


def build_repository(folder):
    toys.python_model(folder, "block", toys.BLOCKING)
    toys.python_model(folder, "hold", toys.HOLDING, heartbeat="true")
    toys.python_model(folder, "hold_quietly", toys.HOLDING, on_death="restart_server")
    toys.python_model(folder, "hold_child", toys.HOLDING, heartbeat="true", on_death="reload")
    toys.ensemble(folder, "pipeline", "block")
    toys.onnx_model(folder, "linear", toys.linear_graph(WEIGHT), toys.LINEAR + ONE + DELAY + WARMUP)
    toys.onnx_model(folder, "linear_twice", toys.linear_graph(WEIGHT), toys.LINEAR + "instance_group { count: 2 }\n")
    return folder


WARMUP = """model_warmup { name: "two rows" batch_size: 2 count: 3
  inputs { key: "x" value { data_type: TYPE_FP32 dims: [4] random_data: true } }
  inputs { key: "t" value { data_type: TYPE_FP32 dims: [1] zero_data: true } } }
"""


def any_ports(repository, **changes):
    return ServerOptions(repository, **{"http_port": 0, "grpc_port": 0, "metrics_port": 0, **changes})


@pytest.fixture(scope="session")
def repository(tmp_path_factory):
    return build_repository(tmp_path_factory.mktemp("repository"))


@pytest.fixture(scope="session")
def server(repository):
    options = any_ports(repository, heartbeat_s=1.0, heartbeat_timeout_s=3.0, stop_grace_s=2.0)
    with EmbeddedServer(options) as running:
        yield running
