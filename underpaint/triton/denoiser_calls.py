"""What a call of a denoiser carries, as types of ours, and what it is answered when its trajectory has ended."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import numpy as np

from underpaint.diffusion.conditioning import Conditioning
from underpaint.diffusion.denoiser import Trajectory
from underpaint.diffusion.engine import Denoised
from underpaint.diffusion.orders import Canvas, Order
from underpaint.errors import InvalidArgument
from underpaint.front_door.transport import Tensors
from underpaint.triton.replies import answer, refuse
from underpaint.triton.tensors import inputs_of, needed, parameters_of, scalar, text
from underpaint.wishes import ON_MISSING_LORA, ControlNetWish, LoraWish, parse_controlnets, parse_loras

_NEVER = -1  # the step at which a LoRA joined that could not be had
# Without these there is nothing to run; config.pbtxt has them optional, since the other operations need none.
_NEEDED = (
    "seed",
    "num_inference_steps",
    "guidance_scale",
    "scheduler",
    "width",
    "height",
)


@dataclass(frozen=True)
class Call:
    """One request to this model: what it carries, and where its answer goes.

    ``called_ns`` and ``deadline_ns``: monotonic nanoseconds, as far as the caller says them. ``lora_join_step``: LoRAs
    join exactly there, however long they take to load, or not. ``controlnet_stale``: see ``diffusion.controls``;
    ``guidance_split``, ``company``: see ``diffusion.batcher``.
    """

    sender: Any
    inputs: Tensors
    request_id: str
    called_ns: int | None
    deadline_ns: int | None
    loras: tuple[LoraWish, ...]
    on_missing_lora: str
    lora_join_step: int | None
    controlnets: tuple[ControlNetWish, ...]
    controlnet_stale: bool
    guidance_split: bool
    company: int

    @classmethod
    def of(cls, request: Any, sender: Any) -> Call:
        parameters = parameters_of(request)
        return cls(
            sender,
            inputs_of(request),
            _request_id(request, parameters),
            called_ns=_nanoseconds(parameters, "called_ns"),
            deadline_ns=_nanoseconds(parameters, "deadline_ns"),
            loras=parse_loras(str(parameters.get("lora", ""))),
            on_missing_lora=str(parameters.get("on_missing_lora", ON_MISSING_LORA[0])),
            lora_join_step=_step(parameters, "lora_join_step"),
            controlnets=parse_controlnets(str(parameters.get("controlnet", ""))),
            controlnet_stale=bool(parameters.get("controlnet_stale", False)),
            guidance_split=bool(parameters.get("guidance_split", False)),
            company=int(parameters.get("company", 0)),
        )


# What is asked for ---------------------------------------------------------------------------------------------


def order_of(inputs: Tensors, canvas: Canvas) -> Order:
    """The order in a request's tensors, each with a batch dimension of 1.

    Raises:
        InvalidArgument: a tensor is missing, or out of range.
    """
    for name in _NEEDED:
        needed(inputs, name)
    return Order(
        prompt=_conditioning(inputs, ""),
        negative_prompt=None if canvas.guidance_embeds else _conditioning(inputs, "negative_"),
        seed=scalar(inputs, "seed"),
        num_inference_steps=scalar(inputs, "num_inference_steps"),
        guidance_scale=scalar(inputs, "guidance_scale"),
        scheduler=text(inputs, "scheduler"),
        width=scalar(inputs, "width"),
        height=scalar(inputs, "height"),
        start_step=scalar(inputs, "start_step", 0),
        image_latents=_first(inputs, "image_latents"),
        start_latents=_first(inputs, "start_latents"),
        capture_steps=tuple(int(step) for step in inputs.get("capture_steps", np.empty(0)).reshape(-1)),
    )


def _conditioning(inputs: Tensors, which: str) -> Conditioning:
    """The prompt, or with ``negative_`` the negative prompt, as the text encoder read it."""
    return Conditioning(
        needed(inputs, f"{which}prompt_embeds")[0],
        pooled=_first(inputs, f"{which}pooled_prompt_embeds"),
        mask=_first(inputs, f"{which}prompt_attention_mask"),
    )


def _first(inputs: Tensors, name: str) -> np.ndarray | None:
    return inputs[name][0] if name in inputs else None


def control_images(call: Call, canvas: Canvas, trajectory: Trajectory) -> np.ndarray:
    """What the request's ControlNets are told, uint8 [N, H, W, 3], of the size of the image that is painted."""
    images = needed(call.inputs, "control_image")[0]
    size = tuple(side * canvas.vae_scale_factor for side in trajectory.sample.shape[1:])
    if images.shape[1:3] != size or len(images) not in (1, len(call.controlnets)):
        allowed = f"[1 or {len(call.controlnets)}, {size[0]}, {size[1]}, 3]"
        raise InvalidArgument.of("control_image", f"shape {list(images.shape)}", allowed)
    return images


def both_prompts(inputs: Tensors) -> dict[str, np.ndarray]:
    """The ids for each text encoder, int32 [2, T]: those of the prompt and of the negative prompt."""
    names = [name for name in inputs if name.startswith("input_ids")]
    return {name: np.concatenate([inputs[name], inputs[f"negative_{name}"]]) for name in names}


def _nanoseconds(parameters: Mapping[str, Any], name: str) -> int | None:
    value = parameters.get(name)
    if value is not None and type(value) is not int:
        raise InvalidArgument.of(name, value, "an integer, nanoseconds of the monotonic clock")
    return value


def _step(parameters: Mapping[str, Any], name: str) -> int | None:
    value = parameters.get(name)
    if value is not None and (type(value) is not int or value < 0):
        raise InvalidArgument.of(name, value, "an integer, 0 or more")
    return value


def _request_id(request: Any, parameters: Mapping[str, Any]) -> str:
    """The caller's own name for the request; one that nobody can cancel if it has none."""
    return str(
        parameters.get("request_id") or request.request_id() or f"unnamed-{threading.get_ident()}-{time.monotonic_ns()}"
    )


# Answers -------------------------------------------------------------------------------------------------------


def deliver(call: Call, arrived_ns: int, future: Future[Denoised]) -> None:
    """Answer a request whose trajectory has ended."""
    sender = call.sender
    error = future.exception()
    if error is not None:
        return refuse(sender, error, to_model=True)
    denoised = future.result()
    trajectory = denoised.trajectory
    captured = [trajectory.captured[step] for step in sorted(trajectory.captured)]
    none = np.zeros((0, *trajectory.sample.shape), np.float32)
    joined = [trajectory.joined_at if wish.name in trajectory.joined else _NEVER for wish in call.loras]
    times = [arrived_ns, denoised.started_ns, denoised.finished_ns, denoised.held_ns]
    answer(
        sender,
        {
            "latents": trajectory.sample[None],
            "captured_latents": np.stack(captured)[None] if captured else none[None],
            "timings_ns": np.array([times], np.int64),
            "progress": progress_of(trajectory.step, len(trajectory.schedule)),
            "steps_run": np.array([[denoised.steps_run]], np.int32),
            "lora_steps": np.array([joined], np.int32),
            "controlnet_steps": np.array([_controlled_steps(denoised)], np.int32),
        },
    )


def _controlled_steps(denoised: Denoised) -> list[int]:
    """In how many steps of its run each of a request's ControlNets acted."""
    trajectory = denoised.trajectory
    controls = () if trajectory.controlling is None else trajectory.controlling.controls
    steps = len(trajectory.schedule)
    run = range(steps - denoised.steps_run, steps)
    return [sum(control.acts(step, steps) for step in run) for control in controls]


def progress_of(step: int, num_inference_steps: int) -> np.ndarray:
    """int32 [1, 2]."""
    return np.array([[step, num_inference_steps]], np.int32)
