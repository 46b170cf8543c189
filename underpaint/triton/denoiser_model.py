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
from underpaint.diffusion.adapters import Joining
from underpaint.diffusion.batcher import StepBatcher, Ticket
from underpaint.diffusion.conditioning import Conditioning
from underpaint.diffusion.denoiser import Answer, Denoiser, Trajectory
from underpaint.diffusion.engine import Denoised, Engine
from underpaint.diffusion.orders import Canvas, Order, begin
from underpaint.diffusion.schedulers import load_scheduler, scheduler_names
from underpaint.errors import InvalidArgument, NotFound, UnderpaintError
from underpaint.front_door.transport import Tensors
from underpaint.triton.bls import BlsTransport
from underpaint.triton.controlnet_service import open_controlnets
from underpaint.triton.denoiser_metrics import DenoiserMetrics
from underpaint.triton.lora_service import LoraOrder, open_loras
from underpaint.triton.model_args import ModelArgs
from underpaint.triton.replies import answer, refuse
from underpaint.triton.tensors import inputs_of, parameters_of, scalar, text
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
class _Call:
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
    def of(cls, request: Any, sender: Any) -> _Call:
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


class TritonPythonModel:
    """Operations: ``run`` (the default), ``cancel``, ``peek`` and ``heartbeat``."""

    def initialize(self, args: Mapping[str, str]) -> None:
        self._alive_since_ns = time.monotonic_ns()
        model = ModelArgs.of(args)
        raw = json.loads(model.file("scheduler_config.json").read_text())
        self._schedulers = {name: load_scheduler(raw, name) for name in scheduler_names(raw)}
        self._canvas = _canvas(model.parameters)
        stacks = int(model.parameters["stacks_in_flight"])
        self._transport = BlsTransport(max_calls=24)
        network = f"{model.parameters['unet']}:{model.folder.name}"  # of the denoiser's own version
        unet = partial(_call_unet, self._transport, network, float(model.parameters["unet_timeout_s"]))
        prediction_type = self._schedulers[scheduler_names(raw)[0]].prediction_type
        batcher = StepBatcher(int(model.parameters["max_rows"]), stacks)
        self._loras = open_loras(model, self._transport)
        twin = None if self._loras is None else self._loras.call_twin
        self._controlnets = open_controlnets(model, self._transport)
        controlled = None if self._controlnets is None else self._controlnets.unet
        denoiser = Denoiser(unet, prediction.by_name(prediction_type), twin, controlled)
        self._engine = Engine(denoiser, batcher, stacks)
        self._metrics = DenoiserMetrics(
            model.name, self._engine.activity, None if self._loras is None else self._loras.residents
        )
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
        for service in (self._loras, self._controlnets):
            if service is not None:
                service.close()
        self._transport.close()

    def _operation(self, op: str) -> Callable[[_Call], None]:
        if op not in self._operations:
            raise InvalidArgument.of("op", op, ", ".join(self._operations))
        return self._operations[op]

    def _run(self, call: _Call) -> None:
        arrived_ns = time.monotonic_ns()
        trajectory = begin(_order(call.inputs, self._canvas), self._canvas, self._schedulers)
        if call.loras:
            trajectory.joining = self._joining(call, trajectory)
        called_ns = call.called_ns or arrived_ns
        shape, split, kin = trajectory.sample.shape, call.guidance_split, tuple(map(str, call.loras))
        whose = call.request_id, trajectory.rows, called_ns, call.deadline_ns
        ticket = Ticket(*whose, shape, split, kin, call.company)
        ended = self._submit(call, ticket, trajectory)
        ended.add_done_callback(partial(_deliver, call, arrived_ns))

    def _submit(self, call: _Call, ticket: Ticket, trajectory: Trajectory) -> Future[Denoised]:
        """Hand a trajectory over, with the ControlNets that it holds until it ends."""
        if not call.controlnets:
            return self._engine.submit(ticket, trajectory)
        service = self._controlnets
        if service is None:
            raise InvalidArgument.of(
                "controlnet", ",".join(map(str, call.controlnets)), "none: this variant takes none"
            )
        images = _control_images(call, self._canvas, trajectory)
        controlling = service.order(call.controlnets, images, call.controlnet_stale, loras=bool(call.loras))
        trajectory.controlling = controlling
        try:
            ended = self._engine.submit(ticket, trajectory)
        except UnderpaintError:
            service.release(controlling)
            raise
        ended.add_done_callback(lambda _: service.release(controlling))
        return ended

    def _joining(self, call: _Call, trajectory: Trajectory) -> Joining:
        """The request's LoRAs, which are being loaded where they are not in memory."""
        if self._loras is None:
            raise InvalidArgument.of("lora", ",".join(map(str, call.loras)), "none: this variant has no LoRA twin")
        wanted = LoraOrder(
            call.loras,
            call.on_missing_lora,
            call.lora_join_step,
            trajectory.step,
            len(trajectory.schedule),
            _both_prompts(call.inputs),
        )
        return self._loras.order(wanted)

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
        if self._transport.exhausted:
            return  # silence is what a supervisor understands: only a new process gets the threads back
        answer(call.sender, {"alive_since_ns": np.array([[self._alive_since_ns]], np.int64)})


def _call_unet(
    transport: BlsTransport,
    unet: str,
    timeout_s: float,
    sample: np.ndarray,
    timestep: np.ndarray,
    conditioning: Conditioning,
) -> Answer:
    """The UNet contract of ``diffusion.denoiser``, served by another model; Triton wants numbers per row as [b, 1]."""
    told = {name: part[:, None] if part.ndim == 1 else part for name, part in conditioning.inputs().items()}
    inputs = {"sample": sample, "timestep": timestep[:, None], **told}
    answer = transport.begin(unet, inputs, ["noise_pred"], timeout_s)
    return lambda: answer()["noise_pred"]


def _deliver(call: _Call, arrived_ns: int, future: Future[Denoised]) -> None:
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
            "progress": _progress(trajectory.step, len(trajectory.schedule)),
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


def _control_images(call: _Call, canvas: Canvas, trajectory: Trajectory) -> np.ndarray:
    """What the request's ControlNets are told, uint8 [N, H, W, 3], of the size of the image that is painted."""
    _check_given(call.inputs, "control_image")
    images = call.inputs["control_image"][0]
    size = tuple(side * canvas.vae_scale_factor for side in trajectory.sample.shape[1:])
    if images.shape[1:3] != size or len(images) not in (1, len(call.controlnets)):
        allowed = f"[1 or {len(call.controlnets)}, {size[0]}, {size[1]}, 3]"
        raise InvalidArgument.of("control_image", f"shape {list(images.shape)}", allowed)
    return images


def _both_prompts(inputs: Tensors) -> dict[str, np.ndarray]:
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


def _not_here(request_id: str) -> NotFound:
    return NotFound(f"request_id: {request_id!r} is not being denoised here")


def _progress(step: int, num_inference_steps: int) -> np.ndarray:
    return np.array([[step, num_inference_steps]], np.int32)


def _order(inputs: Tensors, canvas: Canvas) -> Order:
    """The order in a request's tensors, each with a batch dimension of 1.

    Raises:
        InvalidArgument: a tensor is missing, or out of range.
    """
    for name in _NEEDED:
        _check_given(inputs, name)
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
    _check_given(inputs, f"{which}prompt_embeds")
    return Conditioning(
        inputs[f"{which}prompt_embeds"][0],
        pooled=_first(inputs, f"{which}pooled_prompt_embeds"),
        mask=_first(inputs, f"{which}prompt_attention_mask"),
    )


def _check_given(inputs: Tensors, name: str) -> None:
    if name not in inputs:
        raise InvalidArgument.of(name, None, "a value; it is needed for op run")


def _first(inputs: Tensors, name: str) -> np.ndarray | None:
    return inputs[name][0] if name in inputs else None


def _canvas(parameters: Mapping[str, str]) -> Canvas:
    sizes = (size.split("x") for size in parameters["sizes"].split(","))
    return Canvas(
        latent_channels=int(parameters["latent_channels"]),
        vae_scale_factor=int(parameters["vae_scale_factor"]),
        sizes=tuple((int(width), int(height)) for width, height in sizes),
        guidance_embeds=parameters.get("guidance_embeds") == "true",
        patch_size=int(parameters.get("patch_size", 1)),
    )
