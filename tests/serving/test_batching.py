"""Who else is in the batch, and when they joined it, does not show in the image."""

from __future__ import annotations

import re
import threading
import time
import urllib.request
from typing import Any

import numpy as np
import pytest
from tritonclient.utils import InferenceServerException

from tests.serving.triton_calls import generate, generate_all, run_denoiser_op, run_ensemble

pytestmark = pytest.mark.server

TOLERANCE = 2  # of 255


def difference(a: np.ndarray, b: np.ndarray) -> int:
    return int(np.abs(a.astype(int) - b.astype(int)).max())


@pytest.mark.parametrize("variant", ["tiny-l", "tiny-s"])
def test_a_seed_paints_the_same_alone_and_among_fifteen_others(server: Any, variant: str) -> None:
    wanted = {"seed": 5, "variant": variant, "num_inference_steps": 12}
    alone, _ = generate(server.grpc_url, **wanted)
    others = [
        {
            "seed": i,
            "variant": variant,
            "prompt": f"a large green star {i}",
            "num_inference_steps": 6 + i,
            "guidance_scale": float(i % 4),
        }
        for i in range(15)
    ]
    together = generate_all(server.grpc_url, [*others[:8], wanted, *others[8:]])
    assert difference(together[8][0], alone) <= TOLERANCE
    assert len({image.tobytes() for image, _ in together}) == 16


def test_a_negative_prompt_is_read_once_for_all(server: Any) -> None:
    """… by Triton's own cache; and what comes from it paints the same."""
    wanted = {"seed": 5, "variant": "tiny-m", "num_inference_steps": 2, "negative_prompt": "a purple moon"}
    first, _ = generate(server.grpc_url, **wanted, prompt="a red circle")
    before = hits(server, "tiny-m_text_encoder")
    generate(server.grpc_url, **wanted, prompt="a green star")
    assert hits(server, "tiny-m_text_encoder") == before + 1
    again, _ = generate(server.grpc_url, **wanted, prompt="a red circle")
    assert hits(server, "tiny-m_text_encoder") == before + 3
    assert difference(again, first) <= TOLERANCE


def hits(server: Any, model: str) -> int:
    with urllib.request.urlopen(server.metrics_url, timeout=10) as response:
        counted = re.search(
            rf'^nv_cache_num_hits_per_model\{{model="{model}".*\}} (\d+)$', response.read().decode(), re.M
        )
    return int(counted.group(1)) if counted else 0


def test_a_request_joins_a_running_batch_and_leaves_before_it(server: Any) -> None:
    """A short request that comes when others are beyond step 20 is done before they are, and unharmed by them."""
    short = {"seed": 9, "num_inference_steps": 4}
    alone, _ = generate(server.grpc_url, **short)
    ends: dict[str, float] = {}

    def long(name: str) -> None:
        generate(server.grpc_url, seed=1, num_inference_steps=80, parameters={"request_id": name})
        ends[name] = time.monotonic()

    threads = [threading.Thread(target=long, args=(f"long-{i}",)) for i in range(3)]
    for thread in threads:
        thread.start()
    wait_until_beyond(server.grpc_url, "long-0", 20)
    joined, outcome = generate(server.grpc_url, **short)
    joined_at = time.monotonic()
    for thread in threads:
        thread.join()
    assert difference(joined, alone) <= TOLERANCE
    assert joined_at < min(ends.values())
    assert outcome["steps_run"] == 4


def test_latents_captured_on_the_way_resume_to_the_same_image(server: Any) -> None:
    run = {"seed": 4, "num_inference_steps": 16, "scheduler": "flow_match_euler"}
    whole = run_ensemble(server.grpc_url, "tiny-l", capture_steps=np.array([4, 10], np.int32), **run)
    assert whole["captured_latents"].shape[0] == 2
    for latents, step in zip(whole["captured_latents"], (4, 10), strict=True):
        rest = run_ensemble(server.grpc_url, "tiny-l_resume", start_latents=latents, start_step=step, **run)
        assert rest["steps_run"] == 16 - step
        assert difference(rest["image"], whole["image"]) <= TOLERANCE


def test_finished_latents_do_as_well_as_the_image_that_they_are(server: Any) -> None:
    """Of another variant with the same autoencoder; what is missing is the loss of decoding and encoding."""
    run = {"seed": 4, "num_inference_steps": 8, "scheduler": "flow_match_euler"}
    whole = run_ensemble(server.grpc_url, "tiny-l", **run)
    latents = run_ensemble(server.grpc_url, "tiny-m_resume", image_latents=whole["latents"], start_step=6, **run)
    image = run_ensemble(server.grpc_url, "tiny-m_refine", image=whole["image"], start_step=6, **run)
    assert latents["steps_run"] == image["steps_run"] == 2
    gap = np.abs(latents["image"].astype(int) - image["refined_image"].astype(int)).mean()
    assert gap < 4 < np.abs(latents["image"].astype(int) - 128).mean()
    with pytest.raises(InferenceServerException, match="start_step: got 6; allowed: 0, where there are no latents"):
        run_ensemble(server.grpc_url, "tiny-m_resume", start_step=6, **run)


def test_nothing_is_captured_unless_asked_for(server: Any) -> None:
    outputs = run_ensemble(server.grpc_url, "tiny-s", num_inference_steps=2, scheduler="ddim")
    assert outputs["captured_latents"].shape[0] == 0


def wait_until_beyond(url: str, request_id: str, step: int, timeout_s: float = 120.0) -> None:
    """Peek at the denoiser until a request is past ``step``."""
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        try:
            if run_denoiser_op(url, "tiny-l", "peek", request_id)[0] > step:
                return
        except InferenceServerException as error:
            assert error.status() == "StatusCode.NOT_FOUND"
        time.sleep(0.01)
    raise AssertionError(f"{request_id} never got beyond step {step}")
