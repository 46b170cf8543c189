"""``<variant>_denoiser``: one process that holds all active requests of a variant (see ``diffusion.engine``).

Requests are answered later, through their response senders, so that ``execute`` returns at once and further requests,
cancellations and peeks get in while others are being denoised.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any

import numpy as np

from underpaint.diffusion import prediction
from underpaint.diffusion.adapters import Joining
from underpaint.diffusion.batcher import StepBatcher, Ticket
from underpaint.diffusion.conditioning import Conditioning
from underpaint.diffusion.denoiser import Answer, Denoiser, Trajectory
from underpaint.diffusion.engine import Denoised, Engine
from underpaint.diffusion.orders import Canvas, begin
from underpaint.diffusion.schedulers import load_scheduler, scheduler_names
from underpaint.errors import InvalidArgument, NotFound, UnderpaintError
from underpaint.triton.bls import BlsTransport
from underpaint.triton.controlnet_service import open_controlnets
from underpaint.triton.denoiser_calls import Call, both_prompts, control_images, deliver, order_of, progress_of
from underpaint.triton.denoiser_metrics import DenoiserMetrics
from underpaint.triton.lora_service import LoraOrder, open_loras
from underpaint.triton.model_args import ModelArgs
from underpaint.triton.replies import answer, refuse
from underpaint.triton.tensors import text


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
        self._operations: dict[str, Callable[[Call], None]] = {
            "run": self._run,
            "cancel": self._cancel,
            "peek": self._peek,
            "heartbeat": self._heartbeat,
        }

    def execute(self, requests: Sequence[Any]) -> None:
        for request in requests:
            sender = request.get_response_sender()
            try:
                call = Call.of(request, sender)
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

    def _operation(self, op: str) -> Callable[[Call], None]:
        if op not in self._operations:
            raise InvalidArgument.of("op", op, ", ".join(self._operations))
        return self._operations[op]

    def _run(self, call: Call) -> None:
        arrived_ns = time.monotonic_ns()
        trajectory = begin(order_of(call.inputs, self._canvas), self._canvas, self._schedulers)
        if call.loras:
            trajectory.joining = self._joining(call, trajectory)
        called_ns = call.called_ns or arrived_ns
        shape, split, kin = trajectory.sample.shape, call.guidance_split, tuple(map(str, call.loras))
        whose = call.request_id, trajectory.rows, called_ns, call.deadline_ns
        ticket = Ticket(*whose, shape, split, kin, call.company)
        ended = self._submit(call, ticket, trajectory)
        ended.add_done_callback(partial(deliver, call, arrived_ns))

    def _submit(self, call: Call, ticket: Ticket, trajectory: Trajectory) -> Future[Denoised]:
        """Hand a trajectory over, with the ControlNets that it holds until it ends."""
        if not call.controlnets:
            return self._engine.submit(ticket, trajectory)
        service = self._controlnets
        if service is None:
            raise InvalidArgument.of(
                "controlnet", ",".join(map(str, call.controlnets)), "none: this variant takes none"
            )
        images = control_images(call, self._canvas, trajectory)
        controlling = service.order(call.controlnets, images, call.controlnet_stale, loras=bool(call.loras))
        trajectory.controlling = controlling
        try:
            ended = self._engine.submit(ticket, trajectory)
        except UnderpaintError:
            service.release(controlling)
            raise
        ended.add_done_callback(lambda _: service.release(controlling))
        return ended

    def _joining(self, call: Call, trajectory: Trajectory) -> Joining:
        """The request's LoRAs, which are being loaded where they are not in memory."""
        if self._loras is None:
            raise InvalidArgument.of("lora", ",".join(map(str, call.loras)), "none: this variant has no LoRA twin")
        wanted = LoraOrder(
            call.loras,
            call.on_missing_lora,
            call.lora_join_step,
            trajectory.step,
            len(trajectory.schedule),
            both_prompts(call.inputs),
        )
        return self._loras.order(wanted)

    def _cancel(self, call: Call) -> None:
        if not self._engine.cancel(call.request_id):
            raise _not_here(call.request_id)
        answer(call.sender, {"progress": progress_of(0, 0)})

    def _peek(self, call: Call) -> None:
        progress = self._engine.peek(call.request_id)
        if progress is None:
            raise _not_here(call.request_id)
        tensors = {"progress": progress_of(progress.step, progress.num_inference_steps)}
        if progress.clean is not None:
            tensors["latents"] = progress.clean[None]
        answer(call.sender, tensors)

    def _heartbeat(self, call: Call) -> None:
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


def _not_here(request_id: str) -> NotFound:
    return NotFound(f"request_id: {request_id!r} is not being denoised here")


def _canvas(parameters: Mapping[str, str]) -> Canvas:
    sizes = (size.split("x") for size in parameters["sizes"].split(","))
    return Canvas(
        latent_channels=int(parameters["latent_channels"]),
        vae_scale_factor=int(parameters["vae_scale_factor"]),
        sizes=tuple((int(width), int(height)) for width, height in sizes),
        guidance_embeds=parameters.get("guidance_embeds") == "true",
        patch_size=int(parameters.get("patch_size", 1)),
    )
