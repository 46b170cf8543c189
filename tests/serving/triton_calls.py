"""Plain calls to Triton for these tests, so that they depend on the server alone and not on our own client."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import tritonclient.grpc as grpcclient

PROMPT = "a small red circle above a large blue square, on a yellow background"

# Of the inputs of ensembles. The front door takes all integers as INT64.
_DTYPES: dict[str, tuple[Any, str]] = {
    "seed": (np.int64, "INT64"),
    "num_inference_steps": (np.int32, "INT32"),
    "guidance_scale": (np.float32, "FP32"),
    "width": (np.int32, "INT32"),
    "height": (np.int32, "INT32"),
    "start_step": (np.int32, "INT32"),
}


def generate(url: str, parameters: dict[str, Any] | None = None, **fields: Any) -> tuple[np.ndarray, dict[str, Any]]:
    """One request to ``generate`` over gRPC: its image, uint8 [H, W, 3], and its report."""
    with grpcclient.InferenceServerClient(url) as client:
        inputs = [tensor(name, [value]) for name, value in {"prompt": PROMPT, **fields}.items()]
        result = client.infer("generate", inputs, parameters=parameters)
    return result.as_numpy("image"), json.loads(result.as_numpy("outcome")[0])


def generate_all(url: str, requests: Sequence[dict[str, Any]]) -> list[tuple[np.ndarray, dict[str, Any]]]:
    """All of them at once."""
    with ThreadPoolExecutor(len(requests)) as pool:
        return list(pool.map(lambda fields: generate(url, **fields), requests))


def run_ensemble(url: str, model: str, **fields: Any) -> dict[str, np.ndarray]:
    """One request to an ensemble, with every input that it needs; outputs without their batch dimension."""
    defaults = {"prompt": PROMPT, "negative_prompt": "", "seed": 1, "guidance_scale": 3.0, "width": 64, "height": 64}
    inputs = [_with_batch(name, value) for name, value in {**defaults, **fields}.items()]
    with grpcclient.InferenceServerClient(url) as client:
        result = client.infer(model, inputs)
        outputs = [output.name for output in result.get_response().outputs]
        return {name: result.as_numpy(name)[0] for name in outputs}


def cancel(url: str, request_id: str) -> None:
    with grpcclient.InferenceServerClient(url) as client:
        client.infer("generate", [tensor("op", ["cancel"])], parameters={"request_id": request_id})


def post(url: str, body: dict[str, Any] | str, model: str = "generate") -> tuple[int, dict[str, Any]]:
    """POST to Triton's ``/generate``, as curl would: status and JSON."""
    data = (body if isinstance(body, str) else json.dumps(body)).encode()
    request = urllib.request.Request(f"{url}/v2/models/{model}/generate", data=data, method="POST")
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def tensor(name: str, values: Any) -> Any:
    """An input tensor of the front door; pictures come as they are."""
    if isinstance(values[0], np.ndarray):
        return _filled(name, values[0], "UINT8")
    dtype, triton_dtype = _DTYPES.get(name, (np.object_, "BYTES"))
    if triton_dtype == "INT32":
        dtype, triton_dtype = np.int64, "INT64"
    array = np.array([_encoded(v) for v in values], dtype=dtype)
    return _filled(name, array, triton_dtype)


def _with_batch(name: str, value: Any) -> Any:
    if isinstance(value, np.ndarray):
        kinds = {"uint8": "UINT8", "float32": "FP32", "int32": "INT32"}
        return _filled(name, value[None], kinds[str(value.dtype)])
    dtype, triton_dtype = _DTYPES.get(name, (np.object_, "BYTES"))
    return _filled(name, np.array([[_encoded(value)]], dtype=dtype), triton_dtype)


def _encoded(value: Any) -> Any:
    return value.encode() if isinstance(value, str) else value


def _filled(name: str, array: np.ndarray, triton_dtype: str) -> Any:
    declared = grpcclient.InferInput(name, list(array.shape), triton_dtype)
    declared.set_data_from_numpy(array)
    return declared


def run_denoiser_op(url: str, variant: str, op: str, request_id: str) -> tuple[int, int]:
    """Ask a denoiser directly; its progress (step, steps in all)."""
    with grpcclient.InferenceServerClient(url) as client:
        result = client.infer(f"{variant}_denoiser", [_with_batch("op", op)], parameters={"request_id": request_id})
        step, total = result.as_numpy("progress")[0]
    return int(step), int(total)
