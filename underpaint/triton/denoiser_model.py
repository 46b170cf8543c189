"""``<variant>_denoiser``: one process that holds all active requests of a variant (see ``diffusion.engine``).

Requests are answered later, through their response senders, so that ``execute`` returns at once and further requests,
cancellations and peeks get in while others are being denoised.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from underpaint.diffusion import prediction
from underpaint.diffusion.batcher import StepBatcher, Ticket
from underpaint.diffusion.denoiser import Denoiser, Trajectory
from underpaint.diffusion.engine import Denoised, Engine
from underpaint.diffusion.noise import gaussian
from underpaint.diffusion.schedule import Schedule
from underpaint.diffusion.schedulers import load_scheduler, scheduler_names
from underpaint.errors import InvalidArgument, NotFound
from underpaint.triton.bls import BlsTransport
from underpaint.triton.metrics import EngineMetrics
from underpaint.triton.model_args import ModelArgs
from underpaint.triton.replies import answer, refuse
from underpaint.triton.tensors import Tensors, inputs_of, parameters_of, scalar, text

_UNET_INPUTS = ("sample", "timestep", "encoder_hidden_states")


@dataclass(frozen=True)
class _Call:
    """One request to this model: what it carries, and where its answer goes."""

    sender: Any
    inputs: Tensors
    request_id: str
    deadline_ns: int | None

    @classmethod
    def of(cls, request: Any, sender: Any) -> _Call:
        parameters = parameters_of(request)
        deadline_ns = parameters.get("deadline_ns")
        return cls(sender, inputs_of(request), _request_id(request, parameters), deadline_ns and int(deadline_ns))


class TritonPythonModel:
    """Operations: ``run`` (the default), ``cancel``, ``peek`` and ``heartbeat``."""

    def initialize(self, args: Mapping[str, str]) -> None:
        self._alive_since_ns = time.monotonic_ns()
        model = ModelArgs.of(args)
        raw = json.loads((model.folder / "scheduler_config.json").read_text())
        self._schedulers = {name: load_scheduler(raw, name) for name in scheduler_names(raw)}
        self._latent_channels = int(model.parameters["latent_channels"])
        self._vae_scale_factor = int(model.parameters["vae_scale_factor"])
        stacks = int(model.parameters["stacks_in_flight"])
        self._transport = BlsTransport(max_calls=24)
        unet = partial(_call_unet, self._transport, model.parameters["unet"], float(model.parameters["unet_timeout_s"]))
        prediction_type = self._schedulers[scheduler_names(raw)[0]].prediction_type
        batcher = StepBatcher(int(model.parameters["max_rows"]), stacks)
        self._engine = Engine(Denoiser(unet, prediction.by_name(prediction_type)), batcher, stacks)
        self._metrics = EngineMetrics(model.name, self._engine.activity)
        self._operations: dict[str, Callable[[_Call], None]] = {
            "run": self._run,
            "cancel": self._cancel,
            "peek": self._peek,
            "heartbeat": self._heartbeat,
        }

    def execute(self, requests: Sequence[Any]) -> None:
        for request in requests:
            sender = request.get_response_sender()
            try:
                call = _Call.of(request, sender)
                self._operation(text(call.inputs, "op", "run"))(call)
            except Exception as error:
                refuse(sender, error, to_model=True)

    def finalize(self) -> None:
        self._metrics.close()
        self._engine.close()
        self._transport.close()

    def _operation(self, op: str) -> Callable[[_Call], None]:
        if op not in self._operations:
            raise InvalidArgument.of("op", op, ", ".join(self._operations))
        return self._operations[op]

    def _run(self, call: _Call) -> None:
        arrived_ns = time.monotonic_ns()
        trajectory = self._trajectory(call.inputs)
        ticket = Ticket(call.request_id, trajectory.rows, arrived_ns, call.deadline_ns)
        self._engine.submit(ticket, trajectory).add_done_callback(partial(_deliver, call.sender, arrived_ns))

    def _cancel(self, call: _Call) -> None:
        if not self._engine.cancel(call.request_id):
            raise _not_here(call.request_id)
        answer(call.sender, {"progress": _progress(0, 0)})

    def _peek(self, call: _Call) -> None:
        progress = self._engine.peek(call.request_id)
        if progress is None:
            raise _not_here(call.request_id)
        tensors = {"progress": _progress(progress.step, progress.num_inference_steps)}
        if progress.clean is not None:
            tensors["latents"] = progress.clean[None]
        answer(call.sender, tensors)

    def _heartbeat(self, call: _Call) -> None:
        answer(call.sender, {"alive_since_ns": np.array([[self._alive_since_ns]], np.int64)})

    def _trajectory(self, inputs: Tensors) -> Trajectory:
        """The request's start: noise, a clean image's latents re-noised, or latents of an earlier step."""
        guidance_scale = scalar(inputs, "guidance_scale")
        start_step = scalar(inputs, "start_step", 0)
        schedule = self._schedule(inputs)
        schedule.check_step(start_step)
        return Trajectory(
            schedule=schedule,
            sample=self._first_sample(inputs, schedule, start_step),
            step=start_step,
            prompt_embeds=inputs["prompt_embeds"][0],
            negative_prompt_embeds=inputs["negative_prompt_embeds"][0] if guidance_scale > 1 else None,
            guidance_scale=guidance_scale,
            capture_steps=frozenset(_capture_steps(inputs, start_step, len(schedule))),
        )

    def _schedule(self, inputs: Tensors) -> Schedule:
        name = text(inputs, "scheduler")
        if name not in self._schedulers:
            raise InvalidArgument.of("scheduler", name, ", ".join(self._schedulers))
        return self._schedulers[name].schedule(scalar(inputs, "num_inference_steps"))

    def _first_sample(self, inputs: Tensors, schedule: Schedule, start_step: int) -> np.ndarray:
        side = self._vae_scale_factor
        shape = (self._latent_channels, scalar(inputs, "height") // side, scalar(inputs, "width") // side)
        if "start_latents" in inputs:
            return _of_shape("start_latents", inputs["start_latents"][0], shape)
        noise = gaussian(scalar(inputs, "seed"), shape)
        if "image_latents" in inputs:
            return schedule.start_from_image(
                _of_shape("image_latents", inputs["image_latents"][0], shape), noise, start_step
            )
        return schedule.start_from_noise(noise)


def _call_unet(
    transport: BlsTransport,
    unet: str,
    timeout_s: float,
    sample: np.ndarray,
    timestep: np.ndarray,
    encoder_hidden_states: np.ndarray,
) -> np.ndarray:
    """The UNet contract of ``diffusion.denoiser``, served by another model; Triton wants timesteps as [b, 1]."""
    inputs = dict(zip(_UNET_INPUTS, (sample, timestep[:, None], encoder_hidden_states), strict=True))
    return transport.call(unet, inputs, ["noise_pred"], timeout_s)["noise_pred"]


def _deliver(sender: Any, arrived_ns: int, future: Future[Denoised]) -> None:
    """Answer a request whose trajectory has ended."""
    error = future.exception()
    if error is not None:
        return refuse(sender, error, to_model=True)
    denoised = future.result()
    trajectory = denoised.trajectory
    captured = [trajectory.captured[step] for step in sorted(trajectory.captured)]
    none = np.zeros((0, *trajectory.sample.shape), np.float32)
    times = [arrived_ns, denoised.started_ns, denoised.finished_ns]
    answer(
        sender,
        {
            "latents": trajectory.sample[None],
            "captured_latents": np.stack(captured)[None] if captured else none[None],
            "timings_ns": np.array([times], np.int64),
            "progress": _progress(trajectory.step, len(trajectory.schedule)),
            "steps_run": np.array([[denoised.steps_run]], np.int32),
        },
    )


def _request_id(request: Any, parameters: Mapping[str, Any]) -> str:
    """The caller's own name for the request; one that nobody can cancel if it has none."""
    return str(
        parameters.get("request_id") or request.request_id() or f"unnamed-{threading.get_ident()}-{time.monotonic_ns()}"
    )


def _not_here(request_id: str) -> NotFound:
    return NotFound(f"request_id: {request_id!r} is not being denoised here")


def _progress(step: int, num_inference_steps: int) -> np.ndarray:
    return np.array([[step, num_inference_steps]], np.int32)


def _of_shape(name: str, latents: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    if latents.shape != shape:
        raise InvalidArgument.of(name, f"shape {list(latents.shape)}", f"shape {list(shape)}")
    return latents


def _capture_steps(inputs: Tensors, start_step: int, steps: int) -> list[int]:
    wanted = [int(step) for step in inputs["capture_steps"].reshape(-1)] if "capture_steps" in inputs else []
    for step in wanted:
        if not start_step < step < steps:
            raise InvalidArgument.of("capture_steps", step, f"{start_step + 1} to {steps - 1}")
    return wanted
