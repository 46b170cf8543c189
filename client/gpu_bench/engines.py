"""The ways in which the same UNet is run, each as a call of so many rows."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import torch
from unets import UNetGraph

from underpaint.build.signatures import Signature, TensorSpec
from underpaint.triton import model_config as mc

EXPORTED = ("onnxruntime", "onnxruntime-nhwc", "triton")  # which run the exported graph
ALL = (*EXPORTED, "torch", "torch.compile")
_MODEL = "unet"
Call = Callable[[int], object]  # one denoising step of so many rows
Inputs = Mapping[int, Mapping[str, torch.Tensor]]  # by rows and by name


def opened(engine: str, graph: UNetGraph, folder: Path, given: Inputs, device: str) -> AbstractContextManager[Call]:
    """An engine as it is to be timed; ``folder`` holds the exported graph. Raises what it fails with."""
    if engine == "triton":
        return _triton(folder, given, device)
    if engine in EXPORTED:
        return nullcontext(_onnxruntime(folder, given, device, nhwc=engine.endswith("nhwc")))
    return nullcontext(_torch(graph, given, device, compiled=engine == "torch.compile"))


def why_not(engine: str, device: str) -> str:
    """What an engine lacks on this machine; empty where it lacks nothing."""
    if engine in EXPORTED and device == "cuda":
        import onnxruntime

        if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
            return "onnxruntime has no CUDA here: pip install onnxruntime-gpu, and nothing else of that name"
    if engine.endswith("nhwc") and device != "cuda":
        return "an option of CUDA's"
    if engine == "triton":
        from underpaint.server.runtime import Installation

        if Installation.locate() is None:
            return "no tritonserver here: pip install nvidia-pytriton==0.7.0"
    return ""


def _onnxruntime(folder: Path, given: Inputs, device: str, nhwc: bool) -> Call:
    import onnxruntime as ort

    options = {"prefer_nhwc": "1"} if nhwc else {}
    provider = ("CUDAExecutionProvider", options) if device == "cuda" else ("CPUExecutionProvider", {})
    session = ort.InferenceSession(folder / "model.onnx", providers=[provider])
    if session.get_providers()[0] != provider[0]:
        raise RuntimeError(f"onnxruntime could not open {provider[0]}")
    arrays = {batch: {name: each.numpy() for name, each in tensors.items()} for batch, tensors in given.items()}
    return lambda batch: session.run(["noise_pred"], arrays[batch])


def _torch(graph: UNetGraph, given: Inputs, device: str, compiled: bool) -> Call:
    run = torch.compile(graph) if compiled else graph
    there = {batch: [each.to(device) for each in tensors.values()] for batch, tensors in given.items()}

    @torch.inference_mode()
    def call(batch: int) -> object:
        return run(*there[batch]).cpu()  # which waits for the GPU, and is what the others return too

    return call


@contextmanager
def _triton(folder: Path, given: Inputs, device: str) -> Iterator[Call]:
    """The same graph under the embedded tritonserver, called over gRPC with tensors in the message."""
    import tritonclient.grpc as grpcclient

    from underpaint.server import EmbeddedServer, ServerOptions

    with tempfile.TemporaryDirectory() as parent:
        repository = Path(parent) / "repository"
        (repository / _MODEL).mkdir(parents=True)
        (repository / _MODEL / "1").symlink_to(folder)
        sample = given[max(given)]["sample"].shape
        config = _config(Signature.read(folder / "model.onnx"), sample, device)
        (repository / _MODEL / "config.pbtxt").write_text(mc.to_text(config))
        options = ServerOptions(repository, http_port=0, grpc_port=0, metrics_port=0, store=Path(parent) / "store")
        with EmbeddedServer(options) as server, grpcclient.InferenceServerClient(server.grpc_url) as client:
            asked = {batch: [_input(grpcclient, name, each) for name, each in t.items()] for batch, t in given.items()}
            yield lambda batch: client.infer(_MODEL, asked[batch]).as_numpy("noise_pred")


def _config(signature: Signature, sample: Sequence[int], device: str) -> mc.ModelConfig:
    def declared(spec: TensorSpec) -> mc.ModelInput:
        return mc.model_input(spec.name, spec.dtype, spec.row) if spec.row else mc.scalar_per_row(spec.name, spec.dtype)

    outputs = [mc.model_output(each.name, each.dtype, each.row) for each in signature.outputs.values()]
    kind, threads = ("gpu", 1) if device == "cuda" else ("cpu", torch.get_num_threads())
    inputs = [declared(each) for each in signature.inputs.values()]
    free = {"sample": sample[2:]}
    return mc.onnx_model(
        _MODEL, inputs, outputs, sample[0], threads=threads, kind=kind, dynamic_batching=False, free_dims=free
    )


def _input(grpcclient, name: str, tensor: torch.Tensor):
    array = tensor.numpy().reshape(len(tensor), -1) if tensor.ndim == 1 else tensor.numpy()
    asked = grpcclient.InferInput(name, array.shape, "FP32")
    asked.set_data_from_numpy(array)
    return asked
