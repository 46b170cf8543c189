"""The Python-based onnxruntime backend, without a server: batching, and configurations that do not fit the graph."""

from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from google.protobuf import json_format

from underpaint.triton import model_config as mc
from underpaint.triton import onnxruntime_backend as backend
from underpaint.triton.onnxruntime_backend import Call, LoadError

from . import toys


def call(rows, width, value, outputs=("y",)):
    return Call({"x": np.full((rows, width), value, np.float32)}, outputs)


def test_calls_of_one_shape_run_together():
    calls = [call(1, 4, 0), call(2, 3, 0), call(3, 4, 0), call(1, 3, 0)]
    assert list(backend.group(calls, batches=True)) == [[0, 2], [1, 3]]
    assert list(backend.group(calls, batches=False)) == [[0], [1], [2], [3]]


def test_a_lone_call_is_not_copied():
    inputs = call(2, 4, 1).inputs
    assert backend.stacked([inputs])["x"] is inputs["x"]


def test_each_call_gets_its_rows_back():
    calls = [call(1, 2, 1), call(3, 2, 2, ("y", "z")), call(2, 2, 3, ("z",))]
    batch = backend.stacked([each.inputs for each in calls])
    parts = backend.split({"y": batch["x"] * 10, "z": batch["x"] * 100}, calls, batches=True)
    assert [sorted(part) for part in parts] == [["y"], ["y", "z"], ["z"]]
    assert parts[0]["y"].tolist() == [[10, 10]]
    assert parts[1]["z"].tolist() == [[200, 200]] * 3
    assert parts[2]["z"].tolist() == [[300, 300]] * 2


def node(name, shape, kind="tensor(float)"):
    return SimpleNamespace(name=name, shape=shape, type=kind)


def declared(name, dims, dtype="TYPE_FP32", **more):
    return {"name": name, "dims": dims, "data_type": dtype, **more}


GRAPH_IN = [node("x", ["batch", 4, "w"]), node("t", ["batch"])]
GRAPH_OUT = [node("y", ["batch", 4, "w"])]


T = declared("t", [1], reshape={"shape": []})
Y = declared("y", [4, -1])


def config(*inputs, output=Y):
    return {"max_batch_size": 8, "input": list(inputs), "output": [output]}


def test_a_configuration_that_fits():
    backend.check_signature(config(declared("x", [4, 16]), T), GRAPH_IN, GRAPH_OUT)
    no_dims = declared("t", [1], reshape={})  # as protobuf prints an empty shape
    backend.check_signature(config(declared("x", [4, -1]), no_dims), GRAPH_IN, GRAPH_OUT)


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (config(declared("x", [4, 16])), "the graph takes t, which config.pbtxt does not declare"),
        (config(declared("x", [4, 16]), T, declared("u", [1])), "declares the input u, the graph has x, t"),
        (config(declared("x", [4, 16], "TYPE_FP16"), T), r"input x as TYPE_FP16, the graph has tensor\(float\)"),
        (config(declared("x", [5, 16]), T), r"input x as \[-1, 5, 16\], the graph has \['batch', 4, 'w'\]"),
        (config(declared("x", [4]), T), "input x as"),
        (config(declared("x", [4, 16]), declared("t", [1])), "input t as"),
        (config(declared("x", [4, 16]), T, output=declared("z", [1])), "declares the output z, the graph has y"),
    ],
)
def test_a_configuration_that_does_not_fit(model, says):
    with pytest.raises(LoadError, match=says):
        backend.check_signature(model, GRAPH_IN, GRAPH_OUT)


def test_a_graph_for_one_row_cannot_be_batched():
    with pytest.raises(LoadError, match="input x"):
        backend.check_signature(config(declared("x", [4])), [node("x", [1, 4])], GRAPH_OUT)


def parameters(**values):
    return {"parameters": {key: {"string_value": value} for key, value in values.items()}}


def test_parameters_reach_onnxruntime():
    options = backend.session_options(
        {
            **parameters(
                intra_op_thread_count="3", inter_op_thread_count="2", execution_mode="1", enable_mem_arena="0"
            ),
            "optimization": {"graph": {"level": -1}},
        }
    )
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (3, 2)
    assert options.execution_mode == ort.ExecutionMode.ORT_PARALLEL
    assert not options.enable_cpu_mem_arena
    assert options.graph_optimization_level == ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"


@pytest.mark.parametrize("value", [{}, parameters(intra_op_thread_count="0")])
def test_without_a_thread_count_there_is_one_all_the_same(value):
    assert backend.session_options(value).intra_op_num_threads >= 1, "0 would pin threads to cores"


def test_on_a_gpu_cuda_gets_the_options_that_the_config_has_for_it(monkeypatch):
    asked = mc.onnx_model("x", [], [], 4, kind="gpu", channels_last=True)
    asked = json_format.MessageToDict(asked, preserving_proto_field_name=True)
    on_gpu = {"model_instance_kind": "GPU", "model_instance_device_id": "1"}
    assert backend.providers(asked, on_gpu) == ["CPUExecutionProvider"]  # which is all that this onnxruntime has
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"])
    cuda = ("CUDAExecutionProvider", {"prefer_nhwc": "1", "device_id": "1"})
    assert backend.providers(asked, on_gpu) == [cuda, "CPUExecutionProvider"]
    assert backend.providers({}, on_gpu)[0] == ("CUDAExecutionProvider", {"device_id": "1"})
    assert backend.providers(asked, {"model_instance_kind": "CPU"}) == ["CPUExecutionProvider"]


def test_parameters_that_make_no_sense():
    with pytest.raises(LoadError, match="intra_op_thread_count is 'two'; allowed: a whole number"):
        backend.session_options(parameters(intra_op_thread_count="two"))
    with pytest.raises(LoadError, match="level is 7; allowed: -1, 0, 1, 2"):
        backend.session_options({"optimization": {"graph": {"level": 7}}})


def served(tmp_path, filename=""):
    return {"default_model_filename": filename}, {"model_repository": str(tmp_path), "model_version": "1"}


def test_a_missing_or_broken_file(tmp_path):
    settings, args = served(tmp_path)
    with pytest.raises(LoadError, match=r"there is no .*model\.onnx"):
        backend.model_path(settings, args)
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "model.onnx").write_bytes(b"not a graph")
    path = backend.model_path(settings, args)
    with pytest.raises(LoadError, match=r"cannot open .*model\.onnx"):
        backend.open_session(settings, path, args)


def test_weights_may_lie_beside_the_graph(tmp_path):
    weight = np.arange(300, dtype=np.float32).reshape(100, 3)
    graph = toys.linear_graph(weight)
    (tmp_path / "1").mkdir()
    settings, args = served(tmp_path, "graph.onnx")
    path = tmp_path / "1" / "graph.onnx"
    onnx.save(graph, path, save_as_external_data=True, location="weights.safetensors", size_threshold=0)
    session = backend.open_session(settings, backend.model_path(settings, args), args)
    x = np.ones((2, 100), np.float32)
    np.testing.assert_allclose(session.run(None, {"x": x, "t": np.zeros(2, np.float32)})[0], x @ weight)
