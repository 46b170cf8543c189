"""The LoRAs of a denoiser's requests: loaded beside the denoising, and run by the twins of UNet and text encoder."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from underpaint.addons.joins import JoinRule
from underpaint.addons.layout import LoraLayout
from underpaint.addons.location import lora_sources
from underpaint.addons.lora import Lora
from underpaint.addons.sources import Limits
from underpaint.addons.store import LoraStore, Residents
from underpaint.deployment import FILE_NAME as DEPLOYMENT_FILE
from underpaint.deployment import Deployment
from underpaint.diffusion.adapters import Adaptation, Adapted, Adapter, Banks, Joining
from underpaint.diffusion.conditioning import Conditioning
from underpaint.diffusion.denoiser import Answer
from underpaint.errors import InvalidArgument, Unavailable, UnderpaintError
from underpaint.triton.bls import BlsTransport
from underpaint.triton.model_args import ModelArgs
from underpaint.wishes import ON_MISSING_LORA, LoraWish

_log = logging.getLogger(__name__)

_WAITERS = 64  # requests that wait for LoRAs at a time; more wait for them
_MARGIN_S = 5.0


@dataclass(frozen=True, eq=False)
class LoraOrder:
    """What a request wants.

    ``first_step`` and ``steps`` of its trajectory; ``join_step``: where to join in any case, else the rule says it;
    ``input_ids``: for each text encoder by its input's name, int32 [2, T], its tokens and those of the negative prompt.
    """

    wishes: tuple[LoraWish, ...]
    on_missing: str
    join_step: int | None
    first_step: int
    steps: int
    input_ids: Mapping[str, np.ndarray]

    def __post_init__(self) -> None:
        if self.on_missing not in ON_MISSING_LORA:
            raise InvalidArgument.of("on_missing_lora", self.on_missing, ", ".join(ON_MISSING_LORA))


class LoraService:
    """One for each denoiser that takes LoRAs."""

    def __init__(
        self,
        store: LoraStore,
        unet: LoraLayout,
        twins: Sequence[str],
        text_twin: str,
        transport: BlsTransport,
        timeout_s: float,
        patience_s: float,
        rule: JoinRule,
    ) -> None:
        """
        Args:
            unet: the layout of the banks.
            twins: the models that take a narrow and a wide bank.
            text_twin: the text encoder's; empty where there is none.
            timeout_s: of a call of a twin.
            patience_s: how long a LoRA may take to come.
            rule: at which step they join.
        """
        self._rule = rule
        self._store, self._unet, self._twins, self._text_twin = store, unet, twins, text_twin
        self._transport, self._timeout_s, self._patience_s = transport, timeout_s, patience_s
        self._banks = Banks()
        self._waiters = ThreadPoolExecutor(_WAITERS, thread_name_prefix="join")

    def order(self, order: LoraOrder) -> Joining:
        """Begin to load what is wanted; where all of it is in memory, it joins at once."""
        loads = [self._store.load(wish.name) for wish in order.wishes]
        resident = all(load.done() and load.exception() is None for load in loads)
        step = self._rule.step(order.first_step, order.steps, resident, order.join_step)
        if resident and all(load.result().text_encoder is None for load in loads):
            ready: Future[Adaptation] = Future()
            ready.set_result(_adaptation(order.wishes, [load.result() for load in loads]))
            return Joining(step, ready)
        return Joining(step, self._waiters.submit(self._adapt, order, loads))

    def call_twin(
        self, sample: np.ndarray, timestep: np.ndarray, conditioning: Conditioning, adapted: Adapted
    ) -> Answer:
        """The contract of ``diffusion.denoiser.LoraTwin``, served by other models."""
        inputs = {
            "sample": sample,
            "timestep": timestep,
            **conditioning.inputs(),
            "lora_bank": adapted.bank,
            "lora_scales": adapted.scales,
        }
        twin = self._twins[0 if adapted.bank.shape[2] == self._unet.narrow_width else -1]
        answer = self._transport.begin(twin, inputs, ["noise_pred"], self._timeout_s)
        return lambda: answer()["noise_pred"]

    def residents(self) -> Residents:
        return self._store.residents()

    def close(self) -> None:
        self._waiters.shutdown(wait=False, cancel_futures=True)
        self._store.close()

    def _adapt(self, order: LoraOrder, loads: Sequence[Future[Lora]]) -> Adaptation:
        """Wait for the LoRAs, and let the text encoder read the prompts again where they change it."""
        wishes, loras = [], []
        for wish, load in zip(order.wishes, loads, strict=True):
            try:
                loras.append(self._wait(wish, load))
            except UnderpaintError as error:
                if order.on_missing == "fail":
                    raise
                _log.warning("painted without a LoRA: %s", error)
                continue
            wishes.append(wish)
        return self._with_text(_adaptation(wishes, loras), order, wishes, loras)

    def _wait(self, wish: LoraWish, load: Future[Lora]) -> Lora:
        try:
            return load.result(self._patience_s + _MARGIN_S)
        except TimeoutError:
            raise Unavailable(f"lora: {wish.name} did not come within {self._patience_s:g} s") from None

    def _with_text(
        self, adaptation: Adaptation, order: LoraOrder, wishes: Sequence[LoraWish], loras: Sequence[Lora]
    ) -> Adaptation:
        pairs = zip(wishes, loras, strict=True)
        readers = tuple(Adapter(lora.text_encoder, wish.scale) for wish, lora in pairs if lora.text_encoder is not None)
        if not readers or not order.input_ids or not self._text_twin:
            return adaptation
        adapted = self._banks.of([readers] * 2)
        inputs = {**order.input_ids, "lora_bank": adapted.bank, "lora_scales": adapted.scales}
        states = self._transport.begin(self._text_twin, inputs, ["last_hidden_state"], self._timeout_s)()
        told, untold = (Conditioning(embeds) for embeds in states["last_hidden_state"])
        return Adaptation(adaptation.names, adaptation.adapters, told, untold)


def _adaptation(wishes: Sequence[LoraWish], loras: Sequence[Lora]) -> Adaptation:
    pairs = zip(wishes, loras, strict=True)
    adapters = tuple(Adapter(lora.unet, wish.scale) for wish, lora in pairs if lora.unet is not None)
    return Adaptation(tuple(wish.name for wish in wishes), adapters)


def open_loras(model: ModelArgs, transport: BlsTransport) -> LoraService | None:
    """The service that a denoiser's parameters ask for; None for a variant without twins."""
    twins = [name for name in model.parameters.get("lora_twins", "").split(",") if name]
    if not twins:
        return None
    repository = model.folder.parents[1]
    network, version = model.parameters["unet"], model.folder.name
    unet = LoraLayout.load(repository / network / version)
    layouts = {"unet": unet}
    text_twin = model.parameters.get("lora_text_twin", "")
    if text_twin:
        encoder = f"{network.removesuffix('_unet')}_text_encoder"
        layouts["text_encoder"] = LoraLayout.load(repository / encoder / version)
    limits = Limits(timeout_s=float(model.parameters["lora_timeout_s"]))
    sources = tuple(model.parameters["loras"].split()) or lora_sources(repository)
    store = LoraStore(sources, layouts, int(float(model.parameters["lora_memory_mb"]) * 2**20), limits)
    timeout_s = float(model.parameters["unet_timeout_s"])
    rule = JoinRule.load(model.folder, _weights(repository, network.removesuffix("_unet"), version))
    return LoraService(store, unet, twins, text_twin, transport, timeout_s, limits.timeout_s, rule)


def _weights(repository: Path, variant: str, version: str) -> str:
    """The hash of a variant's weights, as its front door knows it."""
    door = repository / "generate" / version
    return Deployment.load(door).variant(variant).weights if (door / DEPLOYMENT_FILE).is_file() else ""
