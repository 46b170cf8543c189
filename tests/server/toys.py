"""Toy models: the smallest things that a tritonserver can serve."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

TENSORS = """
input [{ name: "x" data_type: TYPE_FP32 dims: [-1] optional: %s }]
input [{ name: "op" data_type: TYPE_STRING dims: [1] optional: true }]
output [{ name: "y" data_type: TYPE_FP32 dims: [-1] }]
instance_group [{ kind: KIND_CPU count: 1 }]
"""

# Blocks in execute, as long as the request's parameter sleep_ms says.
BLOCKING = """
import json, time
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        time.sleep(json.loads(request.parameters() or "{}").get("sleep_ms", 0) / 1000)
        x = pb_utils.get_input_tensor_by_name(request, "x").as_numpy()
        return pb_utils.InferenceResponse([pb_utils.Tensor("y", x + 1)])
"""

# Answers later, from a thread; a heartbeat at once.
HOLDING = """
import json, threading, time
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        for request in requests:
            x, op = (pb_utils.get_input_tensor_by_name(request, name) for name in ("x", "op"))
            pause = 0 if op is not None else json.loads(request.parameters() or "{}").get("sleep_ms", 0)
            y = np.zeros((1, 1), np.float32) if op is not None else x.as_numpy() + 1
            threading.Thread(target=self.answer, args=(request.get_response_sender(), y, pause), daemon=True).start()

    def answer(self, sender, y, pause):
        time.sleep(pause / 1000)
        response = pb_utils.InferenceResponse([pb_utils.Tensor("y", y)])
        sender.send(response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
"""


def python_model(repository: Path, name: str, code: str, **parameters: str) -> None:
    """A model of the Python backend, batches of up to 4."""
    optional = "true" if "heartbeat" in parameters else "false"
    words = "".join(
        f'parameters {{ key: "{key}" value {{ string_value: "{value}" }} }}\n' for key, value in parameters.items()
    )
    write(repository, name, f'backend: "python"\nmax_batch_size: 4\n{TENSORS % optional}{words}', {"model.py": code})


def ensemble(repository: Path, name: str, step: str) -> None:
    """A pipeline of one step."""
    config = """platform: "ensemble"
max_batch_size: 4
input [{ name: "x" data_type: TYPE_FP32 dims: [-1] }]
output [{ name: "y" data_type: TYPE_FP32 dims: [-1] }]
ensemble_scheduling { step [{ model_name: "%s" model_version: -1
  input_map { key: "x" value: "x" } output_map { key: "y" value: "y" } }] }
"""
    write(repository, name, config % step, {})


def onnx_model(repository: Path, name: str, graph: onnx.ModelProto, config: str) -> None:
    """A model of the onnxruntime backend."""
    write(repository, name, f'backend: "onnxruntime"\n{config}', {})
    onnx.save(graph, repository / name / "1" / "model.onnx")


def write(repository: Path, name: str, config: str, files: dict[str, str]) -> None:
    version = repository / name / "1"
    version.mkdir(parents=True)
    (repository / name / "config.pbtxt").write_text(config)
    for file, text in files.items():
        (version / file).write_text(text)


def linear_graph(weight: np.ndarray) -> onnx.ModelProto:
    """y = x @ weight + t per row: x [batch, n], t [batch], y [batch, m]."""
    inputs = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", "n"]),
        helper.make_tensor_value_info("t", TensorProto.FLOAT, ["batch"]),
    ]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", weight.shape[1]])]
    initializers = [
        helper.make_tensor("weight", TensorProto.FLOAT, weight.shape, weight.astype(np.float32).tobytes(), raw=True),
        helper.make_tensor("last", TensorProto.INT64, [1], [1]),
    ]
    nodes = [
        helper.make_node("MatMul", ["x", "weight"], ["product"]),
        helper.make_node("Unsqueeze", ["t", "last"], ["column"]),
        helper.make_node("Add", ["product", "column"], ["y"]),
    ]
    graph = helper.make_graph(nodes, "linear", inputs, outputs, initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


LINEAR = """max_batch_size: 8
input [{ name: "x" data_type: TYPE_FP32 dims: [-1] }, { name: "t" data_type: TYPE_FP32 dims: [1] reshape { } }]
output [{ name: "y" data_type: TYPE_FP32 dims: [3] }]
"""


def infer(url: str, model: str, timeout_s: float = 30.0, parameters: Any = None, **inputs: np.ndarray) -> Any:
    """Outputs of one inference over HTTP (JSON), by name; ``(status, message)`` for an error that Triton answered."""
    tensors = [
        {"name": name, "datatype": "FP32", "shape": list(array.shape), "data": array.ravel().tolist()}
        for name, array in inputs.items()
    ]
    body = json.dumps({"inputs": tensors, "parameters": parameters or {}}).encode()
    try:
        with urllib.request.urlopen(f"{url}/v2/models/{model}/infer", body, timeout=timeout_s) as response:
            outputs = json.load(response)["outputs"]
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)["error"]
    return {each["name"]: np.array(each["data"], np.float32).reshape(each["shape"]) for each in outputs}


def statistics(url: str, model: str) -> dict[str, Any]:
    """Triton's counters for a model."""
    with urllib.request.urlopen(f"{url}/v2/models/{model}/stats", timeout=10) as response:
        counters: dict[str, Any] = json.load(response)["model_stats"][0]
    return counters


def eventually(condition: Any, within_s: float) -> bool:
    """Whether a condition becomes true in time; one that raises ``OSError`` meanwhile counts as false."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        try:
            if condition():
                return True
        except OSError:
            pass
        time.sleep(0.1)
    return False
