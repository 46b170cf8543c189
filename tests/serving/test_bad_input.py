"""What is wrong with a request is said by name, with the status for it; nobody else notices."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as grpcclient
from tritonclient.utils import InferenceServerException

from tests.serving.triton_calls import PROMPT, generate, post, run_ensemble, tensor

pytestmark = pytest.mark.server

REFUSED = {
    "empty prompt": ({"prompt": ""}, "prompt: got ''; allowed: a text that is not empty"),
    "blank prompt": ({"prompt": "  \n"}, "prompt: got '  \\n'"),
    "no prompt": ({}, "prompt: got ''"),
    "endless prompt": ({"prompt": "x" * 5000}, "prompt: got 'xxx"),
    "no steps": ({"num_inference_steps": 0}, "num_inference_steps: got 0; allowed: 1 or more"),
    "negative steps": ({"num_inference_steps": -3}, "num_inference_steps: got -3"),
    "too many steps": ({"num_inference_steps": 5000}, "num_inference_steps: got 5000; allowed: 1 to 200 with tiny-l"),
    "odd size": ({"width": 63}, "width, height: got '63x64'; allowed: 64x64 with tiny-l"),
    "huge size": ({"width": 4096, "height": 4096}, "width, height: got '4096x4096'"),
    "negative size": ({"height": -64}, "height: got -64"),
    "negative guidance": ({"guidance_scale": -1}, "guidance_scale: got -1.0; allowed: a finite number, 0 or more"),
    "infinite guidance": ({"guidance_scale": 1e40}, "guidance_scale: got inf"),
    "strong guidance": ({"guidance_scale": 1000}, "guidance_scale: got 1000.0; allowed: 0 to 20 with tiny-l"),
    "negative seed": ({"seed": -1}, "seed: got -1; allowed: 0 to 9223372036854775807"),
    "unknown variant": ({"variant": "sdxl"}, "variant: got 'sdxl'; allowed: tiny-l, tiny-m, tiny-s"),
    "unknown policy": ({"policy": "magic"}, "policy: got 'magic'; allowed: vanilla"),
    "unknown scheduler": (
        {"scheduler": "dpm"},
        "scheduler: got 'dpm'; allowed: flow_match_euler, dpm_solver_multistep with tiny-l",
    ),
    "unknown format": ({"output_format": "gif"}, "output_format: got 'gif'; allowed: tensor, png, none"),
    "unknown field": ({"promt": "typo"}, "parameter name: got 'promt'; allowed: prompt, "),
    "unknown op": ({"op": "explode"}, "op: got 'explode'; allowed: run, cancel, heartbeat"),
    "bad request id": ({"request_id": "a b"}, "request_id: got 'a b'"),
    "no time": ({"deadline_ms": 0}, "deadline_ms: got 0; allowed: 1 to "),
}


@pytest.mark.parametrize("body, message", REFUSED.values(), ids=REFUSED)
def test_refused_with_400_and_the_field_named(server: Any, body: dict[str, Any], message: str) -> None:
    if "prompt" not in body and body:
        body = {"prompt": PROMPT, **body}
    status, answer = post(server.http_url, body)
    assert (status, answer["error"][: len(message)]) == (400, message)


def test_nan_guidance_is_refused(server: Any) -> None:
    status, answer = post(server.http_url, '{"prompt": "x", "guidance_scale": NaN}')
    assert status == 400
    assert answer["error"] == "guidance_scale: got nan; allowed: a finite number, 0 or more"


@pytest.mark.parametrize(
    "body",
    ["{", '{"prompt": 3}', '{"prompt": "x", "num_inference_steps": "ten"}', '{"prompt": ["a", "b"]}'],
    ids=["malformed", "number for text", "text for number", "two prompts"],
)
def test_what_triton_rejects_itself_keeps_its_answer(server: Any, body: str) -> None:
    status, answer = post(server.http_url, body)
    assert status in (400, 500)
    assert answer["error"]


def test_a_prompt_that_is_not_utf8_is_refused(server: Any) -> None:
    prompt = grpcclient.InferInput("prompt", [1], "BYTES")
    prompt.set_data_from_numpy(np.array([b"caf\xe9"], dtype=np.object_))
    with (
        grpcclient.InferenceServerClient(server.grpc_url) as client,
        pytest.raises(InferenceServerException, match=r"prompt: got b'caf\\xe9'; allowed: UTF-8 text") as caught,
    ):
        client.infer("generate", [prompt])
    assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"


def test_a_wrong_dtype_keeps_tritons_answer(server: Any) -> None:
    seed = grpcclient.InferInput("seed", [1], "FP32")
    seed.set_data_from_numpy(np.array([1], np.float32))
    with (
        grpcclient.InferenceServerClient(server.grpc_url) as client,
        pytest.raises(InferenceServerException, match="seed"),
    ):
        client.infer("generate", [tensor("prompt", [PROMPT]), seed])


def test_a_long_prompt_is_cut_with_a_warning(server: Any) -> None:
    _, outcome = generate(server.grpc_url, prompt="a red circle and " * 10, num_inference_steps=1)
    assert outcome["warnings"] == ["prompt: 50 tokens, of which tiny-l reads the first 22"]


def test_the_status_of_a_child_reaches_the_caller(server: Any) -> None:
    """A start step beyond the end is found by the denoiser, below an ensemble."""
    with pytest.raises(InferenceServerException, match="start_step: got 9; allowed: 0 to 3 at 4 steps") as caught:
        run_ensemble(
            server.grpc_url,
            "tiny-l_resume",
            start_latents=np.zeros((16, 8, 8), np.float32),
            start_step=9,
            num_inference_steps=4,
            scheduler="flow_match_euler",
        )
    assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"


def test_bad_requests_do_not_disturb_good_ones(server: Any) -> None:
    good = {"seed": 2, "num_inference_steps": 20}
    before, _ = generate(server.grpc_url, **good)
    images: list[np.ndarray] = []
    threads = [threading.Thread(target=lambda: images.append(generate(server.grpc_url, **good)[0])) for _ in range(4)]
    for thread in threads:
        thread.start()
    for body, _ in REFUSED.values():
        assert post(server.http_url, body if "prompt" in body else {"prompt": PROMPT, **body})[0] in (200, 400)
    for thread in threads:
        thread.join()
    assert len(images) == 4
    assert all(np.abs(image.astype(int) - before).max() <= 2 for image in images)
