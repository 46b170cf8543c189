"""The ControlNets of a denoiser's requests: models of their own, loaded when they are wanted, and the UNet's halves."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from underpaint.addons.layout import LoraLayout
from underpaint.addons.residency import Residency
from underpaint.addons.residuals import EncoderShape
from underpaint.diffusion.adapters import Adapted
from underpaint.diffusion.controls import Control, ControlledUNet, Controlling
from underpaint.diffusion.rows import Answer, Rows
from underpaint.errors import InvalidArgument, Unavailable
from underpaint.triton.bls import BlsTransport
from underpaint.triton.model_args import ModelArgs
from underpaint.triton.tensors import strings
from underpaint.wishes import ControlNetWish

PREFIX = "controlnet_"
CONTROL = "model_control"


@dataclass(frozen=True)
class HalvesNames:
    """What the models of a UNet's halves are called; ``lora`` and ``locon``: their twins for rows with LoRAs, of
    attention alone and of any layer."""

    encoder: str
    decoder: str
    encoder_lora: str
    decoder_lora: str
    encoder_locon: str
    decoder_locon: str

    @property
    def plain(self) -> list[str]:
        return [self.encoder, self.decoder]

    @property
    def twins(self) -> list[str]:
        return [self.encoder_lora, self.decoder_lora, self.encoder_locon, self.decoder_locon]


class ControlNetService:
    """One for each denoiser that takes ControlNets; the contracts of ``diffusion.controls``, served by other models."""

    def __init__(
        self,
        repository: Path,
        names: HalvesNames,
        shape: EncoderShape,
        layout: LoraLayout,
        transport: BlsTransport,
        timeout_s: float,
        load_timeout_s: float,
        limit: int,
    ) -> None:
        """
        Args:
            repository: where ControlNets are looked for, each a folder of a model.
            shape: of those that fit the decoder.
            layout: of the banks that the halves' twins take.
            timeout_s: of a call.
            load_timeout_s: how long a ControlNet may take to be loaded.
            limit: how many stay loaded.
        """
        self._repository, self._names, self._shape, self._layout = repository, names, shape, layout
        self._transport, self._timeout_s, self._load_timeout_s = transport, timeout_s, load_timeout_s
        load, unload = (partial(self._control, op) for op in ("load", "unload"))
        self._residency = Residency(load, unload, limit)
        self._halves = Residency(load, unload, len(vars(names)))
        self.unet = ControlledUNet(self, self._call_controlnet)

    def order(self, wishes: Sequence[ControlNetWish], images: np.ndarray, stale: bool, loras: bool) -> Controlling:
        """What a request wants; ``images``: uint8 [N, H, W, 3], one for all or for each. It has to be released.

        Raises:
            InvalidArgument: there is no such ControlNet, or it does not fit.
        """
        for wish in wishes:
            self._check(wish.name)
        each = images if len(images) == len(wishes) else np.repeat(images, len(wishes), axis=0)
        controls = tuple(
            Control(wish.name, image, wish.scale, wish.start, wish.end, stale)
            for wish, image in zip(wishes, each, strict=True)
        )
        loading = self._halves.acquire(self._names.plain + (self._names.twins if loras else []))
        loading += self._residency.acquire([f"{PREFIX}{wish.name}" for wish in wishes])
        return Controlling(controls, _all_of(loading, self._load_timeout_s))

    def release(self, controlling: Controlling) -> None:
        """The request has ended; what it wanted may be unloaded when others need the room."""
        self._residency.release(f"{PREFIX}{control.name}" for control in controlling.controls)

    def close(self) -> None:
        self.unet.close()
        self._residency.close()
        self._halves.close()

    # The contracts of diffusion.controls -----------------------------------------------------------------------

    def encode(self, rows: Rows, adapted: Adapted | None) -> Answer:
        inputs = {"sample": rows.sample, "timestep": rows.timestep, **rows.conditioning.inputs()}
        names = self._names
        model = self._for(adapted, names.encoder, names.encoder_lora, names.encoder_locon)
        return self._call(self._halves, model, {**inputs, **_bank(adapted)}, "skips")

    def decode(
        self, skips: np.ndarray, rows: Rows, residuals: np.ndarray, scales: np.ndarray, adapted: Adapted | None
    ) -> Answer:
        inputs = {"skips": skips, **rows.conditioning.inputs(), "residuals": residuals, "residual_scales": scales}
        names = self._names
        model = self._for(adapted, names.decoder, names.decoder_lora, names.decoder_locon)
        return self._call(self._halves, model, {**inputs, **_bank(adapted)}, "noise_pred")

    def _call_controlnet(self, name: str, rows: Rows, images: np.ndarray) -> Answer:
        inputs = {"sample": rows.sample, "timestep": rows.timestep[:, None], **rows.conditioning.inputs()}
        return self._call(self._residency, f"{PREFIX}{name}", {**inputs, "control_image": images}, "residuals")

    def _call(self, residency: Residency, model: str, inputs: dict[str, np.ndarray], output: str) -> Answer:
        """Call a model that should be loaded. One that was unloaded all the same is back for the next try."""
        answer = self._transport.begin(model, inputs, [output], self._timeout_s)

        def wait() -> np.ndarray:
            try:
                return answer()[output]
            except Unavailable:
                residency.restore(model)
                raise

        return wait

    def _control(self, op: str, model: str) -> None:
        """Load or unload a model, see ``model_control_model``."""
        inputs = {"op": strings(op), "model": strings(model)}
        self._transport.begin(CONTROL, inputs, ["model"], self._load_timeout_s)()

    def _for(self, adapted: Adapted | None, plain: str, narrow: str, wide: str) -> str:
        """The model that takes the bank."""
        if adapted is None:
            return plain
        return narrow if adapted.bank.shape[2] == self._layout.narrow_width else wide

    def _check(self, name: str) -> None:
        path = self._repository / f"{PREFIX}{name}" / "1" / "config.json"
        if not path.is_file():
            known = sorted(each.name.removeprefix(PREFIX) for each in self._repository.glob(f"{PREFIX}*"))
            raise InvalidArgument.of("controlnet", name, ", ".join(known) or "none, since there are none")
        shape = EncoderShape.read(path)
        if shape != self._shape:
            allowed = f"one for a UNet of {self._shape.unlike(shape)}; it is for one of {shape.unlike(self._shape)}"
            raise InvalidArgument.of("controlnet", name, allowed)


def open_controlnets(model: ModelArgs, transport: BlsTransport) -> ControlNetService | None:
    """The service that a denoiser's parameters ask for; None for a variant that takes no ControlNets."""
    if "unet_halves" not in model.parameters:
        return None
    repository = model.folder.parents[1]
    unet = repository / model.parameters["unet"] / model.folder.name
    return ControlNetService(
        repository,
        HalvesNames(*model.parameters["unet_halves"].split(",")),
        EncoderShape.load(unet),
        LoraLayout.load(unet),
        transport,
        float(model.parameters["unet_timeout_s"]),
        float(model.parameters["controlnet_timeout_s"]),
        int(model.parameters["controlnets_resident"]),
    )


def _bank(adapted: Adapted | None) -> dict[str, np.ndarray]:
    return {} if adapted is None else {"lora_bank": adapted.bank, "lora_scales": adapted.scales}


def _all_of(loading: Sequence[Future[None]], timeout_s: float) -> Future[None]:
    """Ends when all have, with the first failure if there is one; or, where they take too long, with that."""
    together: Future[None] = Future()
    lock, left = threading.Lock(), {each for each in loading if not each.done() or each.exception() is not None}
    if not left:  # as it is nearly always
        together.set_result(None)
        return together

    def ended(each: Future[None]) -> None:
        with lock:
            left.discard(each)
            if together.done() or (each.exception() is None and left):
                return
            timer.cancel()
            if each.exception() is None:
                together.set_result(None)
            else:
                together.set_exception(each.exception())

    def too_late() -> None:
        with lock:
            if not together.done():
                together.set_exception(Unavailable(f"controlnet: not loaded within {timeout_s:g} s"))

    timer = threading.Timer(timeout_s, too_late)
    timer.daemon = True
    timer.start()
    for each in tuple(left):
        each.add_done_callback(ended)
    return together
