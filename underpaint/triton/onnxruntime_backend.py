"""Triton's ``onnxruntime`` backend as a Python-based one, for servers that lack the original.

Serves ``<version>/model.onnx`` under the config.pbtxt that the original backend takes: dynamic batches run as one, each
instance is a process, and the same parameters mean the same (``intra_op_thread_count``, ``inter_op_thread_count``,
``execution_mode``, ``enable_mem_arena``, ``enable_mem_pattern``, ``optimization.graph.level``, and the options of the
accelerator "cuda"). Two things differ from
ONNX Runtime's defaults, because here many processes share the cores: waiting threads sleep instead of spinning, and
no thread is pinned to a core.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

Arrays = dict[str, np.ndarray]

_ORT_TYPES = {
    "TYPE_BOOL": "tensor(bool)",
    "TYPE_UINT8": "tensor(uint8)",
    "TYPE_UINT16": "tensor(uint16)",
    "TYPE_UINT32": "tensor(uint32)",
    "TYPE_UINT64": "tensor(uint64)",
    "TYPE_INT8": "tensor(int8)",
    "TYPE_INT16": "tensor(int16)",
    "TYPE_INT32": "tensor(int32)",
    "TYPE_INT64": "tensor(int64)",
    "TYPE_FP16": "tensor(float16)",
    "TYPE_FP32": "tensor(float)",
    "TYPE_FP64": "tensor(double)",
    "TYPE_STRING": "tensor(string)",
}
_GRAPH_LEVELS = {  # the original's numbering
    -1: ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    0: ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
    1: ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    2: ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
}


class TritonPythonModel:
    """What Triton calls. Its ``execute`` blocks, so that Triton itself answers the callers of a process that dies."""

    def initialize(self, args: Mapping[str, str]) -> None:
        import triton_python_backend_utils as pb_utils

        self._pb = pb_utils
        config = json.loads(args["model_config"])
        try:
            self._session = open_session(config, model_path(config, args), args)
            check_signature(config, self._session.get_inputs(), self._session.get_outputs())
        except LoadError as error:
            raise pb_utils.TritonModelException(f"{args['model_name']}: {error}") from None
        self._inputs = [each["name"] for each in config["input"]]
        self._strings = frozenset(each["name"] for each in config["input"] if each["data_type"] == "TYPE_STRING")
        self._batches = config.get("max_batch_size", 0) > 0

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        calls = [Call(self._arrays(request), tuple(request.requested_output_names())) for request in requests]
        responses: list[Any] = [None] * len(calls)
        for batch in group(calls, self._batches):
            for index, outcome in zip(batch, self._run([calls[index] for index in batch]), strict=True):
                responses[index] = self._response(outcome)
        return responses

    def _arrays(self, request: Any) -> Arrays:
        """A request's tensors: views of shared memory, not copies (except strings). Optional ones may be absent."""
        tensors = ((name, self._pb.get_input_tensor_by_name(request, name)) for name in self._inputs)
        arrays = {name: tensor.as_numpy() for name, tensor in tensors if tensor is not None}
        return {name: _decoded(array) if name in self._strings else array for name, array in arrays.items()}

    def _run(self, calls: Sequence[Call]) -> Iterable[Arrays | Exception]:
        """Outputs of calls that fit in one batch. What fails together is tried one by one: only the culprit fails."""
        names = list(dict.fromkeys(name for call in calls for name in call.outputs))
        try:
            outputs = self._session.run(names, stacked([call.inputs for call in calls]))
        except Exception as error:
            return [error] if len(calls) == 1 else [each for call in calls for each in self._run([call])]
        return split(dict(zip(names, outputs, strict=True)), calls, self._batches)

    def _response(self, outcome: Arrays | Exception) -> Any:
        if isinstance(outcome, Exception):
            return self._pb.InferenceResponse([], error=self._error(outcome))
        return self._pb.InferenceResponse([self._pb.Tensor(name, array) for name, array in outcome.items()])

    def _error(self, error: Exception) -> Any:
        """Shapes that do not fit are the caller's fault, anything else is ours."""
        message = " ".join(str(error).split())
        callers_fault = isinstance(error, ort.capi.onnxruntime_pybind11_state.InvalidArgument | ValueError)
        code = self._pb.TritonError.INVALID_ARG if callers_fault else self._pb.TritonError.INTERNAL
        return self._pb.TritonError(message, code)


class LoadError(Exception):
    """Why a model cannot be served, in one sentence."""


@dataclass(frozen=True, eq=False)
class Call:
    """One request: its tensors, the batch dimension first where the model has one, and the outputs it asks for."""

    inputs: Arrays
    outputs: tuple[str, ...]

    @property
    def signature(self) -> tuple[Any, ...]:
        """What must be equal for two calls to share a batch."""
        return tuple((name, array.dtype, array.shape[1:]) for name, array in self.inputs.items())

    @property
    def rows(self) -> int:
        return int(next(iter(self.inputs.values())).shape[0])


def group(calls: Sequence[Call], batches: bool) -> Iterator[list[int]]:
    """Indices of the calls that run together; Triton has seen to it that all of them do not exceed the batch limit."""
    if not batches:
        yield from ([index] for index in range(len(calls)))
        return
    groups: dict[tuple[Any, ...], list[int]] = {}
    for index, call in enumerate(calls):
        groups.setdefault(call.signature, []).append(index)
    yield from groups.values()


def stacked(inputs: Sequence[Arrays]) -> Arrays:
    """The inputs of several calls as one batch; those of a single call untouched."""
    if len(inputs) == 1:
        return inputs[0]
    return {name: np.concatenate([each[name] for each in inputs]) for name in inputs[0]}


def split(outputs: Arrays, calls: Sequence[Call], batches: bool) -> list[Arrays]:
    """Each call's rows of each output that it asked for, as views."""
    if not batches:
        return [{name: outputs[name] for name in call.outputs} for call in calls]
    parts, start = [], 0
    for call in calls:
        rows = slice(start, start + call.rows)
        parts.append({name: outputs[name][rows] for name in call.outputs})
        start = rows.stop
    return parts


def model_path(config: Mapping[str, Any], args: Mapping[str, str]) -> Path:
    """The ONNX file of the version that is to be served."""
    path = Path(args["model_repository"]) / args["model_version"] / (config["default_model_filename"] or "model.onnx")
    path = path / "model.onnx" if path.is_dir() else path
    if not path.is_file():
        raise LoadError(f"there is no {path}")
    return path


def open_session(config: Mapping[str, Any], path: Path, args: Mapping[str, str]) -> ort.InferenceSession:
    """ONNX Runtime over a file and the weights beside it. Raises ``LoadError``."""
    try:
        return ort.InferenceSession(str(path), session_options(config), providers=providers(config, args))
    except LoadError:
        raise
    except Exception as error:  # ONNX Runtime's errors share no base class
        raise LoadError(f"ONNX Runtime {ort.__version__} cannot open {path}: {' '.join(str(error).split())}") from None


def providers(config: Mapping[str, Any], args: Mapping[str, str]) -> list[Any]:
    """CUDA first for an instance on a GPU, where this ONNX Runtime can, with the options that the config has for it."""
    cuda = "CUDAExecutionProvider"
    if args.get("model_instance_kind") != "GPU" or cuda not in ort.get_available_providers():
        return ["CPUExecutionProvider"]
    accelerators = config.get("optimization", {}).get("execution_accelerators", {}).get("gpu_execution_accelerator", [])
    named = (each.get("parameters", {}) for each in accelerators if each["name"] == "cuda")
    return [(cuda, {**next(named, {}), "device_id": args["model_instance_device_id"]}), "CPUExecutionProvider"]


def session_options(config: Mapping[str, Any]) -> ort.SessionOptions:
    """The config's parameters as ONNX Runtime takes them. Raises ``LoadError`` for a value that it cannot take."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    # A number of our own, since 0 makes ONNX Runtime pin each thread to a core, the same one in every process.
    options.intra_op_num_threads = _parameter(config, "intra_op_thread_count", 0) or len(os.sched_getaffinity(0))
    options.inter_op_num_threads = _parameter(config, "inter_op_thread_count", 0)
    options.enable_cpu_mem_arena = bool(_parameter(config, "enable_mem_arena", 1))
    options.enable_mem_pattern = bool(_parameter(config, "enable_mem_pattern", 1))
    if _parameter(config, "execution_mode", 0) == 1:
        options.execution_mode = ort.ExecutionMode.ORT_PARALLEL
    level = int(config.get("optimization", {}).get("graph", {}).get("level", 0))
    if level not in _GRAPH_LEVELS:
        raise LoadError(f"optimization.graph.level is {level}; allowed: {', '.join(map(str, _GRAPH_LEVELS))}")
    options.graph_optimization_level = _GRAPH_LEVELS[level]
    # Two busy processes on two cores: a UNet call of 52 ms took 100 with spinning.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    return options


def _parameter(config: Mapping[str, Any], name: str, default: int) -> int:
    text = config.get("parameters", {}).get(name, {}).get("string_value", "") or str(default)
    try:
        return int(text)
    except ValueError:
        raise LoadError(f"parameter {name} is {text!r}; allowed: a whole number") from None


def check_signature(config: Mapping[str, Any], inputs: Sequence[Any], outputs: Sequence[Any]) -> None:
    """That config.pbtxt and the graph agree on names, types and shapes. Raises ``LoadError`` where they do not."""
    batched = config.get("max_batch_size", 0) > 0
    _check_side("input", config["input"], {each.name: each for each in inputs}, batched)
    _check_side("output", config["output"], {each.name: each for each in outputs}, batched)
    missing = {each.name for each in inputs} - {each["name"] for each in config["input"]}
    if missing:
        raise LoadError(f"the graph takes {', '.join(sorted(missing))}, which config.pbtxt does not declare as input")


def _check_side(side: str, declared: Sequence[Mapping[str, Any]], nodes: Mapping[str, Any], batched: bool) -> None:
    for each in declared:
        name, node = each["name"], nodes.get(each["name"])
        if node is None:
            raise LoadError(f"config.pbtxt declares the {side} {name}, the graph has {', '.join(nodes)}")
        if _ORT_TYPES.get(each["data_type"]) != node.type:
            raise LoadError(
                f"config.pbtxt declares the {side} {name} as {each['data_type']}, the graph has {node.type}"
            )
        dims = each["reshape"].get("shape", []) if "reshape" in each else each["dims"]
        expected = [-1, *map(int, dims)] if batched else [*map(int, dims)]
        if not _fits(expected, node.shape, exact=side == "output"):
            raise LoadError(f"config.pbtxt declares the {side} {name} as {expected}, the graph has {node.shape}")


def _fits(declared: Sequence[int], graph: Sequence[int | str | None], exact: bool) -> bool:
    """Whether the original backend would take ``declared`` for ``graph``.

    A dimension that the graph fixes must be declared as it is; one that it leaves free may be fixed for an input, but
    must be declared as -1 for an output (``exact``).
    """
    return len(declared) == len(graph) and all(
        here == there if isinstance(there, int) else here == -1 or not exact
        for here, there in zip(declared, graph, strict=True)
    )


def _decoded(array: np.ndarray) -> np.ndarray:
    """Triton's strings are bytes, ONNX Runtime's are str."""
    return np.array([each.decode("utf-8") for each in array.reshape(-1)], dtype=object).reshape(array.shape)
