"""A plan becomes one call of one ensemble."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from underpaint.deployment import Sampling
from underpaint.front_door.transport import Parameters, Tensors, Transport
from underpaint.policies import Plan
from underpaint.requests import GenerateRequest

_OUTPUTS = ("image", "prompt_tokens", "timings_ns", "steps_run")


@dataclass(frozen=True, eq=False)
class Painting:
    """What an ensemble gives back.

    ``image``: uint8 [H, W, 3]. ``prompt_tokens``: of the prompt and the negative prompt, before any was cut off. Times
    are monotonic nanoseconds: when the ensemble was called, when the denoiser got the request, began and ended it, and
    when the image was there.
    """

    image: np.ndarray
    prompt_tokens: tuple[int, ...]
    steps_run: int
    called_ns: int
    arrived_ns: int
    started_ns: int
    finished_ns: int
    painted_ns: int


@dataclass(frozen=True)
class Errand:
    """One run of a plan: under which id the denoiser knows it, when the request came, and when the denoiser drops it.

    Times are monotonic nanoseconds; ``timeout_s`` is how long to wait for an answer.
    """

    request_id: str
    arrived_ns: int
    deadline_ns: int
    timeout_s: float


async def paint(
    transport: Transport, plan: Plan, request: GenerateRequest, sampling: Sampling, errand: Errand
) -> Painting:
    """Run ``plan`` from text to image."""
    called_ns = time.monotonic_ns()
    parameters: Parameters = {
        "request_id": errand.request_id,
        "called_ns": errand.arrived_ns,
        "deadline_ns": errand.deadline_ns,
    }
    inputs = _inputs(request, sampling)
    outputs = await transport.infer(plan.variant, inputs, _OUTPUTS, errand.timeout_s, parameters)
    arrived_ns, started_ns, finished_ns = (int(t) for t in outputs["timings_ns"].reshape(-1))
    return Painting(
        image=outputs["image"][0],
        prompt_tokens=tuple(int(count) for count in outputs["prompt_tokens"].reshape(2)),
        steps_run=int(outputs["steps_run"].item()),
        called_ns=called_ns,
        arrived_ns=arrived_ns,
        started_ns=started_ns,
        finished_ns=finished_ns,
        painted_ns=time.monotonic_ns(),
    )


def _inputs(request: GenerateRequest, sampling: Sampling) -> Tensors:
    """The ensemble's inputs, each with its batch dimension of 1."""

    def one(value: object, dtype: type) -> np.ndarray:
        return np.array([[value]], dtype=dtype)

    return {
        "prompt": one(request.prompt.encode(), np.object_),
        "negative_prompt": one(request.negative_prompt.encode(), np.object_),
        "seed": one(sampling.seed, np.int64),
        "num_inference_steps": one(sampling.num_inference_steps, np.int32),
        "guidance_scale": one(sampling.guidance_scale, np.float32),
        "scheduler": one(sampling.scheduler.encode(), np.object_),
        "height": one(sampling.height, np.int32),
        "width": one(sampling.width, np.int32),
    }
