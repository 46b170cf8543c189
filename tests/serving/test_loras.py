"""LoRAs as they are served: what diffusers makes of the same files, whoever else is in the batch."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from diffusers import FlowMatchEulerDiscreteScheduler
from tritonclient.utils import InferenceServerException

from tests.serving.lora_files import write_lora
from tests.serving.test_parity import PROMPT, SEED, _FlowMatchScheduler, config, pipeline, psnr, to_uint8
from tests.serving.triton_calls import generate, generate_all
from underpaint.addons.joins import FILE_NAME, JoinRule
from underpaint.deployment import Deployment
from underpaint.diffusion.noise import gaussian
from underpaint.server.control import ControlClient

pytestmark = pytest.mark.server

TOLERANCE = 2  # of 255
STEPS = 10
JOIN_STEP = 2  # a fifth of them
BASE = {"variant": "tiny-m", "cache": "off", "num_inference_steps": STEPS}


@pytest.fixture(scope="module")
def folder(server: Any, repository: Path) -> Iterator[Path]:
    """Where the server looks for LoRAs: ``l0`` to ``l7`` of different ranks, ``wide`` and ``text``."""
    store = repository.parent / "addons" / "lora"
    for i in range(8):
        write_lora(store, repository, f"l{i}", seed=i, rank=2 + 2 * i)
    write_lora(store, repository, "wide", seed=8, wide=True)
    write_lora(store, repository, "text", seed=9, with_text=True)
    yield store


def painted(server: Any, lora: str, **fields: Any) -> np.ndarray:
    """The image with LoRAs that are in memory: the first request may have had to wait for them."""
    wanted = {**BASE, "seed": SEED, **fields, "lora": lora}
    for _ in range(3):
        image, outcome = generate(server.grpc_url, **wanted)
        if all(use["joined_at"] == 0 for use in outcome["loras"]):
            return image
    raise AssertionError(f"{lora} never joined at step 0: {outcome['loras']}")


def by_diffusers(folder: Path, loras: dict[str, float], guidance_scale: float) -> np.ndarray:
    """diffusers' own pipeline, which loads the same files with PEFT."""
    import torch

    scheduler: FlowMatchEulerDiscreteScheduler = _FlowMatchScheduler.from_config(config("tiny-m"))
    pipe = pipeline("tiny-m", scheduler)
    pipe.set_progress_bar_config(disable=True)
    for name in loras:
        pipe.load_lora_weights(str(folder), weight_name=f"{name}.safetensors", adapter_name=name)
    pipe.set_adapters(list(loras), list(loras.values()))
    noise = torch.from_numpy(gaussian(SEED, (1, 16, 8, 8)))
    with torch.no_grad():
        result = pipe(PROMPT, num_inference_steps=STEPS, guidance_scale=guidance_scale, latents=noise, output_type="np")
    return to_uint8(result.images[0])


@pytest.mark.parametrize(
    "loras", [{"l3": 0.8}, {"l1": 0.6, "l6": -0.5}, {"wide": 0.7}, {"text": 1.0, "l2": 0.5}], ids=str
)
def test_served_images_are_those_of_diffusers_with_peft(server: Any, folder: Path, loras: dict[str, float]) -> None:
    served = painted(server, ",".join(f"{name}:{scale}" for name, scale in loras.items()))
    plain, _ = generate(server.grpc_url, **BASE, seed=SEED)
    assert psnr(served, by_diffusers(folder, loras, guidance_scale=3.0)) >= 40
    assert psnr(served, plain) < 30  # or it would say nothing


def test_sixteen_requests_with_eight_loras_are_the_same_alone(server: Any, folder: Path) -> None:
    loras = [f"l{i % 8}:{0.3 + i / 20}" for i in range(14)] + ["l0:0.5,l5:0.5", ""]
    wanted = [{**BASE, "seed": i, "guidance_scale": float(i % 4), "lora": lora} for i, lora in enumerate(loras)]
    generate_all(server.grpc_url, wanted)  # loads them
    together = generate_all(server.grpc_url, wanted)
    alone = [generate(server.grpc_url, **each) for each in wanted]
    for (image, outcome), (expected, _) in zip(together, alone, strict=True):
        assert all(use["joined_at"] == 0 for use in outcome["loras"])
        assert np.abs(image.astype(int) - expected.astype(int)).max() <= TOLERANCE
    assert len({image.tobytes() for image, _ in together}) == 16


def test_what_is_not_in_memory_joins_at_a_fifth_of_the_steps(server: Any, folder: Path, repository: Path) -> None:
    path = write_lora(folder, repository, "late", seed=20)
    late, outcome = generate(server.grpc_url, **BASE, seed=SEED, lora="late")
    assert outcome["loras"] == [{"name": "late", "scale": 1.0, "joined_at": JOIN_STEP}]
    assert psnr(late, painted(server, "late")) < 40
    os.utime(path, ns=(1, 1))  # another file, for all that can be told without reading it
    again, outcome = generate(server.grpc_url, **BASE, seed=SEED, lora="late")
    assert outcome["loras"][0]["joined_at"] == JOIN_STEP
    assert np.abs(late.astype(int) - again.astype(int)).max() <= TOLERANCE


def test_the_step_is_the_one_that_was_calibrated(server: Any, folder: Path, repository: Path) -> None:
    denoiser = repository / "tiny-m_denoiser" / "1"
    host, port = server.http_url.removeprefix("http://").split(":")
    control = ControlClient(host, int(port))
    try:
        JoinRule(0.5, Deployment.load(repository / "generate" / "1").variant("tiny-m").weights).save(denoiser)
        control.load("tiny-m_denoiser", timeout_s=60)
        write_lora(folder, repository, "calibrated", seed=24)
        _, outcome = generate(server.grpc_url, **BASE, seed=SEED, lora="calibrated")
        assert outcome["loras"][0]["joined_at"] == STEPS // 2
        assert generate(server.grpc_url, **BASE, seed=SEED, lora="calibrated")[1]["loras"][0]["joined_at"] == 0
    finally:
        (denoiser / FILE_NAME).unlink()
        control.load("tiny-m_denoiser", timeout_s=60)


def test_a_reproducible_request_waits_for_its_loras(server: Any, folder: Path, repository: Path) -> None:
    write_lora(folder, repository, "exact", seed=21)
    wanted = {**BASE, "cache": "reproducible", "seed": SEED, "lora": "exact"}
    first, outcome = generate(server.grpc_url, **wanted)
    assert outcome["loras"][0]["joined_at"] == 0
    assert np.abs(first.astype(int) - generate(server.grpc_url, **wanted)[0].astype(int)).max() <= TOLERANCE


def test_what_cannot_be_had_fails_or_is_done_without(server: Any, folder: Path) -> None:
    with pytest.raises(InferenceServerException, match="there is no nowhere in") as refused:
        generate(server.grpc_url, **BASE, lora="nowhere")
    assert refused.value.status() == "StatusCode.NOT_FOUND"
    plain, _ = generate(server.grpc_url, **BASE, seed=SEED)
    image, outcome = generate(server.grpc_url, **BASE, seed=SEED, lora="nowhere", on_missing_lora="without")
    assert outcome["loras"][0]["joined_at"] is None
    assert any("nowhere could not be had" in warning for warning in outcome["warnings"])
    assert np.abs(image.astype(int) - plain.astype(int)).max() <= TOLERANCE


def test_bad_files_fail_their_own_request_only(server: Any, folder: Path, repository: Path) -> None:
    whole = write_lora(folder, repository, "whole", seed=22).read_bytes()
    (folder / "half.safetensors").write_bytes(whole[: len(whole) // 2])
    write_lora(folder, repository, "heavy", seed=23, rank=33)
    write_lora(folder, repository, "infinite", seed=24, strength=float("nan"))
    write_lora(folder, repository, "foreign", seed=25, variant="tiny-l")
    complaints = {
        "half": "cut off",
        "heavy": "rank: got 33; allowed: 1 to 32",
        "infinite": "not finite",
        "foreign": "base model: got 'tiny-l'",
    }
    good = [{**BASE, "seed": seed, "lora": f"l{seed}"} for seed in range(4)]
    alone = [painted(server, each["lora"], seed=each["seed"]) for each in good]

    def refused(name: str) -> tuple[str, str]:
        with pytest.raises(InferenceServerException) as failure:
            generate(server.grpc_url, **BASE, lora=name)
        return failure.value.status(), failure.value.message()

    with ThreadPoolExecutor(len(complaints)) as pool:  # in the midst of others
        failures = pool.map(refused, complaints)
        together = generate_all(server.grpc_url, good)
    for (status, message), complaint in zip(failures, complaints.values(), strict=True):
        assert status == "StatusCode.INVALID_ARGUMENT" and complaint in message
    for (image, _), expected in zip(together, alone, strict=True):
        assert np.abs(image.astype(int) - expected.astype(int)).max() <= TOLERANCE


@pytest.mark.parametrize("lora", ["../l0", "l0:nan", "l0:inf", "l0,l0"])
def test_bad_wishes_are_refused(server: Any, lora: str) -> None:
    with pytest.raises(InferenceServerException, match="lora: got") as refused:
        generate(server.grpc_url, **BASE, lora=lora)
    assert refused.value.status() == "StatusCode.INVALID_ARGUMENT"


def test_a_variant_without_a_twin_says_so(server: Any) -> None:
    with pytest.raises(InferenceServerException, match=r"none with tiny-s; LoRAs go with variant .*tiny-m"):
        generate(server.grpc_url, variant="tiny-s", lora="l0")
