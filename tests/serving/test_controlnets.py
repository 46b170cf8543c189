"""ControlNets as they are served: what diffusers makes of the same weights, whoever else is in the batch."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import tritonclient.grpc as grpcclient
from diffusers import FlowMatchEulerDiscreteScheduler, StableDiffusionControlNetPipeline
from peft.tuners.tuners_utils import BaseTunerLayer
from PIL import Image
from tritonclient.utils import InferenceServerException

from tests.serving.lora_files import write_lora
from tests.serving.test_faults import kill
from tests.serving.test_parity import PROMPT, SEED, _FlowMatchScheduler, config, pipeline, psnr, to_uint8
from tests.serving.triton_calls import generate, generate_all
from underpaint.addons.residuals import EncoderShape
from underpaint.build.tiny.control_images import CONTROL_IMAGES
from underpaint.build.tiny.scenes import Scene, Thing
from underpaint.build.tiny.spread import SpreadControlNet
from underpaint.diffusion.noise import gaussian
from underpaint.wishes import parse_controlnets

pytestmark = pytest.mark.server

TOLERANCE = 2  # of 255
STEPS = 6
BASE = {"variant": "tiny-l", "cache": "off", "num_inference_steps": STEPS}
# What PROMPT tells, not where anybody would expect it.
THINGS = (Thing("red", "circle", "small", "plain"), Thing("blue", "square", "large", "plain"))
SCENE = Scene("yellow", THINGS, "above", ((14.0, 17.0), (46.0, 47.0)))


def control(*names: str) -> np.ndarray:
    return np.stack([CONTROL_IMAGES[name](SCENE) for name in names])


LAYOUT, EDGES = control("layout"), control("edges")
BOTH = control("layout", "edges")


@pytest.fixture(scope="module")
def lora(server: Any, repository: Path) -> Iterator[str]:
    write_lora(repository.parent / "addons" / "lora", repository, "beside", seed=3, rank=4, variant="tiny-l")
    yield "beside:0.7"


def by_diffusers(repository: Path, wanted: str, images: np.ndarray, lora: str = "") -> np.ndarray:
    """The image of StableDiffusionControlNetPipeline, with all that it does to scales, spans and several of them."""
    scheduler: FlowMatchEulerDiscreteScheduler = _FlowMatchScheduler.from_config(config("tiny-l"))
    plain, wishes = pipeline("tiny-l", scheduler), parse_controlnets(wanted)
    unet = EncoderShape.of(plain.unet.config)
    controlnets = [SpreadControlNet.load(repository / f"controlnet_{wish.name}" / "1", unet) for wish in wishes]
    pipe = StableDiffusionControlNetPipeline(**{**plain.components, "controlnet": controlnets})
    pipe.set_progress_bar_config(disable=True)
    if lora:
        name, _, scale = lora.partition(":")
        pipe.load_lora_weights(
            str(repository.parent / "addons" / "lora"), weight_name=f"{name}.safetensors", adapter_name=name
        )
        for layer in pipe.unet.modules():  # set_adapters knows no UNet whose levels differ in layers
            if isinstance(layer, BaseTunerLayer):
                layer.set_scale(name, float(scale))
    with torch.no_grad():
        result = pipe(
            PROMPT,
            image=[Image.fromarray(image) for image in images],
            num_inference_steps=STEPS,
            guidance_scale=3.0,
            controlnet_conditioning_scale=[wish.scale for wish in wishes],
            control_guidance_start=[wish.start for wish in wishes],
            control_guidance_end=[wish.end for wish in wishes],
            latents=torch.from_numpy(gaussian(SEED, (1, 16, 8, 8))),
            output_type="np",
        )
    return to_uint8(result.images[0])


def painted(server: Any, **fields: Any) -> np.ndarray:
    image, _ = generate(server.grpc_url, **{**BASE, "seed": SEED, **fields})
    return image


CASES = [("layout", LAYOUT), ("layout:0.8,edges:0.6", BOTH), ("layout:1:0:0.5,edges:0.7:0.3:1", BOTH)]


@pytest.mark.parametrize(("controlnet", "images"), CASES, ids=[case[0] for case in CASES])
def test_served_images_are_those_of_diffusers(
    server: Any, repository: Path, controlnet: str, images: np.ndarray
) -> None:
    served = painted(server, controlnet=controlnet, control_image=images)
    assert psnr(served, by_diffusers(repository, controlnet, images)) >= 40
    assert psnr(served, painted(server)) < 35, "they changed nothing"


def test_together_with_a_lora(server: Any, repository: Path, lora: str) -> None:
    wanted = {"controlnet": "layout,edges:0.5", "control_image": BOTH, "lora": lora, "cache": "reproducible"}
    served = painted(server, **wanted)
    assert psnr(served, by_diffusers(repository, wanted["controlnet"], BOTH, lora)) >= 40
    without = {name: value for name, value in wanted.items() if name != "lora"}
    assert psnr(served, painted(server, **without)) < 35, "the LoRA changed nothing"


def test_a_batch_with_and_without_is_what_each_is_alone(server: Any, lora: str) -> None:
    kinds: Sequence[dict[str, Any]] = [
        {},
        {"controlnet": "layout", "control_image": LAYOUT},
        {"controlnet": "edges:0.5", "control_image": EDGES},
        {"controlnet": "layout:0.7,edges", "control_image": BOTH},
        {"lora": lora, "cache": "reproducible"},
        {"controlnet": "edges", "control_image": EDGES, "lora": lora, "cache": "reproducible"},
    ]
    requests = [{**BASE, **kind, "seed": seed} for seed, kind in enumerate(kinds)]
    alone = [generate(server.grpc_url, **fields)[0] for fields in requests]
    together = [image for image, _ in generate_all(server.grpc_url, requests)]
    for fields, one, other in zip(requests, alone, together, strict=True):
        assert np.abs(one.astype(int) - other.astype(int)).max() <= TOLERANCE, fields


def test_the_reply_says_what_was_applied(server: Any) -> None:
    fields = {"controlnet": "layout:0.8:0:0.5", "control_image": LAYOUT}
    _, outcome = generate(server.grpc_url, **BASE, **fields)
    assert outcome["controlnets"] == [{"name": "layout", "scale": 0.8, "steps": STEPS // 2}]
    _, outcome = generate(server.grpc_url, **BASE)
    assert outcome["controlnets"] == []


@pytest.mark.parametrize("flags", [{"controlnet_stale": True}, {"guidance_split": True}], ids=str)
def test_flags_are_taken(server: Any, flags: dict[str, bool]) -> None:
    fields = {"controlnet": "layout", "control_image": LAYOUT, **BASE, "seed": SEED}
    image, _ = generate(server.grpc_url, parameters=flags, **fields)
    prompt = painted(server, controlnet="layout", control_image=LAYOUT)
    if "guidance_split" in flags:
        assert np.abs(image.astype(int) - prompt.astype(int)).max() <= TOLERANCE
    else:
        assert 15 < psnr(image, prompt) < 60, "late residuals make nearly the same image"


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"controlnet": "nobody", "control_image": LAYOUT}, r"controlnet: got 'nobody'; allowed: edges, layout"),
        ({"controlnet": "../cache", "control_image": LAYOUT}, r"controlnet: got '../cache'; allowed: a name"),
        ({"controlnet": "layout"}, r"control_image: got None; allowed: uint8 \[1, height, width, 3\]"),
        (
            {"controlnet": "layout", "control_image": LAYOUT[:, :32]},
            r"control_image: got '64x32 pixels'; allowed: 64x64",
        ),
        ({"controlnet": "layout", "control_image": BOTH}, r"control_image: got 'uint8 \[2, 64, 64, 3\]'; allowed: "),
        ({"control_image": LAYOUT}, r"control_image: .* allowed: none without controlnet"),
        (
            {"controlnet": "layout", "control_image": LAYOUT, "variant": "tiny-s"},
            r"allowed: none with tiny-s; .* tiny-l",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_bad_input_is_refused_in_a_sentence(server: Any, fields: dict[str, Any], said: str) -> None:
    with pytest.raises(InferenceServerException, match=said):
        painted(server, **fields)


def test_a_controlnet_that_is_killed_costs_time_only(server: Any) -> None:
    fields = {"controlnet": "layout", "control_image": LAYOUT}
    expected = painted(server, **fields, num_inference_steps=60)
    done: list[np.ndarray] = []
    request = threading.Thread(target=lambda: done.append(painted(server, **fields, num_inference_steps=60)))
    request.start()
    time.sleep(0.5)
    kill(server, "controlnet_layout")
    beside = painted(server)
    request.join(120)
    assert done and np.abs(done[0].astype(int) - expected.astype(int)).max() <= TOLERANCE
    assert beside.shape == (64, 64, 3)


def test_a_controlnet_that_was_unloaded_is_back_for_the_next_request(server: Any) -> None:
    fields = {"controlnet": "layout", "control_image": LAYOUT}
    expected = painted(server, **fields)
    with grpcclient.InferenceServerClient(server.grpc_url) as client:
        client.unload_model("controlnet_layout")
    again = painted(server, **fields)
    assert np.abs(again.astype(int) - expected.astype(int)).max() <= TOLERANCE
