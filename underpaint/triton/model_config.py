"""config.pbtxt: Triton's own protobuf, built by typed functions and printed in one place."""

from __future__ import annotations

import string
from collections.abc import Iterable, Mapping, Sequence

from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import DataType as _DataType
from tritonclient.grpc.model_config_pb2 import (
    ModelConfig,
    ModelDynamicBatching,
    ModelInput,
    ModelInstanceGroup,
    ModelOutput,
    ModelParameter,
    ModelWarmup,
)


def model_input(name: str, dtype: str, dims: Iterable[int], optional: bool = False) -> ModelInput:
    """An input; ``dtype`` as config.pbtxt spells it without its prefix (FP32, INT64, STRING …)."""
    return ModelInput(name=name, data_type=_DataType.Value(f"TYPE_{dtype}"), dims=dims, optional=optional)


def scalar_per_row(name: str, dtype: str) -> ModelInput:
    """An input of one number per row: the graph sees [batch], Triton wants at least one dimension beside it."""
    declared = model_input(name, dtype, [1])
    declared.reshape.SetInParent()
    return declared


def model_output(name: str, dtype: str, dims: Iterable[int]) -> ModelOutput:
    return ModelOutput(name=name, data_type=_DataType.Value(f"TYPE_{dtype}"), dims=dims)


def python_model(
    name: str,
    inputs: Iterable[ModelInput],
    outputs: Iterable[ModelOutput],
    max_batch_size: int = 0,
    decoupled: bool = False,
    parameters: Mapping[str, object] | None = None,
) -> ModelConfig:
    """A model of the Python backend: one process on the CPU."""
    config = ModelConfig(name=name, backend="python", max_batch_size=max_batch_size, input=inputs, output=outputs)
    config.instance_group.append(ModelInstanceGroup(kind=ModelInstanceGroup.KIND_CPU, count=1))
    if decoupled:
        config.model_transaction_policy.decoupled = True
    _set_parameters(config, parameters or {})
    return config


def onnx_model(
    name: str,
    inputs: Iterable[ModelInput],
    outputs: Iterable[ModelOutput],
    max_batch_size: int,
    instances: int = 1,
    threads: int = 1,
    free_dims: Mapping[str, Sequence[int]] | None = None,
    dynamic_batching: bool = True,
    model_file: str = "",
    kind: str = "auto",
    on_demand: bool = False,
    channels_last: bool = False,
    response_cache: bool = False,
) -> ModelConfig:
    """A model of the onnxruntime backend, warmed up with one row of zeros.

    ``instances`` run side by side, each with ``threads`` threads inside an operator where it runs on a CPU.
    ``free_dims``: what the dimensions declared as -1 are in the warm-up, in order, by input; 1 where nothing is said.
    ``model_file``: the graph, relative to the version directory, if it is not the ``model.onnx`` there. ``kind``: where
    it runs, "cpu", "gpu", or "auto" for a GPU where the server has one.
    ``channels_last``: on a GPU, CUDA's convolutions in the order that its tensor cores read.
    ``response_cache``: what it has answered before comes from Triton's own cache, where the server has one.
    ``on_demand``: not at the server's start, but when a model that needs it has it loaded.
    """
    config = ModelConfig(name=name, backend="onnxruntime", max_batch_size=max_batch_size, input=inputs, output=outputs)
    config.instance_group.append(
        ModelInstanceGroup(kind=ModelInstanceGroup.Kind.Value(f"KIND_{kind.upper()}"), count=instances)
    )
    config.default_model_filename = model_file
    if dynamic_batching:
        config.dynamic_batching.CopyFrom(ModelDynamicBatching())
    _set_parameters(config, {"intra_op_thread_count": threads, **({"on_demand": "true"} if on_demand else {})})
    if response_cache:
        config.response_cache.enable = True
    if channels_last:
        cuda = config.optimization.execution_accelerators.gpu_execution_accelerator.add(name="cuda")
        cuda.parameters["prefer_nhwc"] = "1"
    config.model_warmup.append(_warm_up(config.input, free_dims or {}))
    return config


def ensemble(template: str, values: Mapping[str, object]) -> ModelConfig:
    """An ensemble from a config.pbtxt template with ``${names}``; checked against Triton's protobuf.

    Raises:
        KeyError: the template has a name that ``values`` lacks.
        google.protobuf.text_format.ParseError: the result is no ModelConfig.
    """
    text = string.Template(template).substitute({name: str(value) for name, value in values.items()})
    return text_format.Parse(text, ModelConfig())


def to_text(config: ModelConfig) -> str:
    """The config in protobuf text format."""
    return text_format.MessageToString(config, use_short_repeated_primitives=True)


def _set_parameters(config: ModelConfig, parameters: Mapping[str, object]) -> None:
    for name, value in parameters.items():
        config.parameters[name].CopyFrom(ModelParameter(string_value=str(value)))


def _warm_up(inputs: Iterable[ModelInput], free_dims: Mapping[str, Sequence[int]]) -> ModelWarmup:
    warm_up = ModelWarmup(name="one row of zeros", batch_size=1)
    for declared in inputs:
        warm_up.inputs[declared.name].data_type = declared.data_type
        sizes = iter(free_dims.get(declared.name, ()))
        warm_up.inputs[declared.name].dims.extend(next(sizes, 1) if dim < 0 else dim for dim in declared.dims)
        warm_up.inputs[declared.name].zero_data = True
    return warm_up
