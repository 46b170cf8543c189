"""A plan, made concrete, becomes one call of one ensemble."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from underpaint.deployment import Sampling
from underpaint.front_door.cache_client import Captured
from underpaint.front_door.transport import Parameters, Transport
from underpaint.policies import CachedImage, CachedLatents, Keep, Noise, Plan
from underpaint.requests import GenerateRequest
from underpaint.wishes import ON_MISSING_LORA

_OUTPUTS = ("prompt_tokens", "timings_ns", "steps_run")


@dataclass(frozen=True, eq=False)
class Job:
    """A plan with all that its execution needs.

    ``source``: what the plan starts from, an image uint8 [H, W, 3] or latents float32 [C, h, w]; None for noise. An
    image that is to be refined may be given as its finished latents.
    ``keep``: what the cache should have of it. ``suffix``: see ``traffic.Release``.
    """

    plan: Plan
    request: GenerateRequest
    sampling: Sampling
    source: np.ndarray | None = None
    keep: Keep | None = None
    suffix: str = ""

    @property
    def painter(self) -> str:
        """What the models are called that paint it, up to the part of each: ``tiny-l``, or ``tiny-l@2``."""
        return f"{self.plan.variant}{self.suffix}"

    @property
    def capture_steps(self) -> tuple[int, ...]:
        """Latents are to be captured before each of these, rising."""
        return self.keep.steps if self.keep else ()


@dataclass(frozen=True)
class Errand:
    """One run of a plan: under which id the denoiser knows it, when the request came, and when the denoiser drops it.

    Times are monotonic nanoseconds; ``timeout_s`` is how long to wait for an answer. ``company``: requests that other
    variants are painting meanwhile.
    """

    request_id: str
    arrived_ns: int
    deadline_ns: int
    timeout_s: float
    company: int = 0


@dataclass(frozen=True, eq=False)
class Painting:
    """What an ensemble gives back.

    ``image``: uint8 [H, W, 3]. ``prompt_tokens``: of the prompt and the negative prompt, before any was cut off. Times
    are monotonic nanoseconds: when the ensemble was called, when the denoiser got the request, began and ended it, and
    when the image was there. ``lora_steps``: before which step each LoRA of the request joined; -1: it never came.
    ``controlnet_steps``: in how many steps each ControlNet acted. ``held_ns``: how long it waited for either.
    """

    image: np.ndarray
    prompt_tokens: tuple[int, ...]
    steps_run: int
    called_ns: int
    arrived_ns: int
    started_ns: int
    finished_ns: int
    painted_ns: int
    captured: Captured | None = None
    lora_steps: tuple[int, ...] = ()
    controlnet_steps: tuple[int, ...] = ()
    held_ns: int = 0

    @classmethod
    def finished(cls, image: np.ndarray) -> Painting:
        """An image that was painted before: nothing is called, no time passes."""
        now_ns = time.monotonic_ns()
        return cls(image, (0, 0), 0, now_ns, now_ns, now_ns, now_ns, now_ns)

    @property
    def step_ms(self) -> float | None:
        """Milliseconds a denoising step took, if any was made."""
        return (self.finished_ns - self.started_ns) / self.steps_run / 1e6 if self.steps_run else None


async def paint(transport: Transport, job: Job, errand: Errand) -> Painting:
    """Run a job from text, and from what its plan starts from, to an image."""
    called_ns = time.monotonic_ns()
    parameters: Parameters = {
        "request_id": errand.request_id,
        "called_ns": errand.arrived_ns,
        "deadline_ns": errand.deadline_ns,
        "company": errand.company,
        **_addon_parameters(job),
    }
    pipeline = _pipeline(job)
    finished = job.keep is not None and job.keep.finished
    wanted = [pipeline.image, *_OUTPUTS, *(["captured_latents"] if job.capture_steps else [])]
    wanted += ["latents"] if finished else []
    wanted += ["lora_steps"] if job.request.loras else []
    wanted += ["controlnet_steps"] if job.request.controlnets else []
    inputs = {**_inputs(job.request, job.sampling), **pipeline.inputs}
    if job.request.control_image is not None:
        inputs["control_image"] = job.request.control_image[None]
    if job.capture_steps:
        inputs["capture_steps"] = _batch(job.capture_steps, np.int32)
    outputs = await transport.infer(pipeline.model, inputs, wanted, errand.timeout_s, parameters)
    arrived_ns, started_ns, finished_ns, held_ns = (int(t) for t in outputs["timings_ns"].reshape(-1))
    return Painting(
        image=outputs[pipeline.image][0],
        prompt_tokens=tuple(int(count) for count in outputs["prompt_tokens"].reshape(2)),
        steps_run=int(outputs["steps_run"].item()),
        called_ns=called_ns,
        arrived_ns=arrived_ns,
        started_ns=started_ns,
        finished_ns=finished_ns,
        held_ns=held_ns,
        painted_ns=time.monotonic_ns(),
        captured=_captured(job, outputs),
        lora_steps=_integers(outputs, "lora_steps"),
        controlnet_steps=_integers(outputs, "controlnet_steps"),
    )


def _captured(job: Job, outputs: Mapping[str, np.ndarray]) -> Captured | None:
    """What of the latents is to be kept."""
    steps, states = job.capture_steps, [outputs["captured_latents"][0]] if job.capture_steps else []
    if "latents" in outputs:
        steps, states = (*steps, job.sampling.num_inference_steps), [*states, outputs["latents"]]
    return Captured(steps, np.concatenate(states)) if states else None


@dataclass(frozen=True, eq=False)
class _Pipeline:
    """An ensemble, what it wants beyond what all of them do, and how it calls its image."""

    model: str
    image: str
    inputs: dict[str, np.ndarray]


def _pipeline(job: Job) -> _Pipeline:
    match job.plan.start, job.source:
        case CachedImage(_, skip), np.ndarray() as latents if latents.dtype == np.float32:
            inputs = {"image_latents": latents[None], "start_step": _batch([skip], np.int32)}
            return _Pipeline(f"{job.painter}_resume", "image", inputs)
        case CachedImage(_, skip), np.ndarray() as image:
            inputs = {"image": image[None], "start_step": _batch([skip], np.int32)}
            return _Pipeline(f"{job.painter}_refine", "refined_image", inputs)
        case CachedLatents(_, step), np.ndarray() as latents:
            inputs = {"start_latents": latents[None], "start_step": _batch([step], np.int32)}
            return _Pipeline(f"{job.painter}_resume", "image", inputs)
        case _:
            return _Pipeline(job.painter, "image", {})


def _addon_parameters(job: Job) -> Parameters:
    """What the cache proposes is done with all LoRAs, or left: nobody goes without one to save work."""
    request, proposed = job.request, job.plan.start != Noise()
    parameters: dict[str, Any] = {}
    if request.loras:
        parameters |= {
            "lora": ",".join(map(str, request.loras)),
            "on_missing_lora": (None if proposed else request.on_missing_lora) or ON_MISSING_LORA[0],
            **({"lora_join_step": 0} if request.reproducible else {}),
        }
    if request.controlnets:
        parameters["controlnet"] = ",".join(map(str, request.controlnets))
        parameters |= {"controlnet_stale": True} if request.controlnet_stale else {}
    return parameters | ({"guidance_split": True} if request.guidance_split else {})


def _integers(outputs: Mapping[str, np.ndarray], name: str) -> tuple[int, ...]:
    return tuple(int(value) for value in outputs[name].reshape(-1)) if name in outputs else ()


def _inputs(request: GenerateRequest, sampling: Sampling) -> dict[str, np.ndarray]:
    return {
        "prompt": _batch([request.prompt.encode()], np.object_),
        "negative_prompt": _batch([request.negative_prompt.encode()], np.object_),
        "seed": _batch([sampling.seed], np.int64),
        "num_inference_steps": _batch([sampling.num_inference_steps], np.int32),
        "guidance_scale": _batch([sampling.guidance_scale], np.float32),
        "scheduler": _batch([sampling.scheduler.encode()], np.object_),
        "height": _batch([sampling.height], np.int32),
        "width": _batch([sampling.width], np.int32),
    }


def _batch(values: Sequence[object], dtype: type) -> np.ndarray:
    """[1, len(values)]: a batch of one."""
    return np.array([values], dtype=dtype)
