"""Painting from any start, by calling ensembles directly: what policies would decide is decided here."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from underpaint.bench.common.patience import insist
from underpaint.bench.demand.workload import WorkItem
from underpaint.client.messages import Call
from underpaint.client.transport import Transport
from underpaint.deployment import Deployment
from underpaint.front_door.transport import Parameters
from underpaint.policies import Settings
from underpaint.requests import GenerateRequest


@dataclass(frozen=True, eq=False)
class Painted:
    """A picture, uint8 [H, W, 3], its finished latents, float32 [C, h, w], and those before some of its steps."""

    image: np.ndarray
    finished: np.ndarray
    latents: dict[int, np.ndarray] = field(default_factory=dict)


class Studio:
    """Has requests painted by a server's ensembles; threads may share it."""

    def __init__(
        self,
        transport: Transport,
        deployment: Deployment,
        patience_s: float = 300.0,
        wait: Callable[[float], None] = time.sleep,
    ) -> None:
        self._transport, self._deployment = transport, deployment
        self._patience_s, self._wait = patience_s, wait

    def from_noise(self, item: WorkItem, capture_steps: Sequence[int] = ()) -> Painted:
        """By the large variant."""
        extra = {"capture_steps": _batch(list(capture_steps), np.int32)} if capture_steps else {}
        outputs = self._run(self._deployment.large, "", item, extra)
        captured = zip(capture_steps, outputs["captured_latents"][0], strict=True)
        return Painted(outputs["image"][0], outputs["latents"][0], dict(captured))

    def by_refiner(self, item: WorkItem) -> Painted:
        """From noise, by the variant that refines."""
        outputs = self._run(self._deployment.refiner, "", item, {})
        return Painted(outputs["image"][0], outputs["latents"][0])

    def from_image(self, item: WorkItem, source: Painted, skip: int) -> Painted:
        """Refined by the refiner, from its step ``skip`` on; as in service, from latents if they are of its kind."""
        extra = {"start_step": _batch([skip], np.int32)}
        refiner, large = self._deployment.refiner, self._deployment.large
        if Settings.of(self._deployment).shares_latents(large):
            extra |= {"image_latents": source.finished[None]}
            outputs = self._run(refiner, "_resume", item, extra, refining=True)
            return Painted(outputs["image"][0], outputs["latents"][0])
        outputs = self._run(refiner, "_refine", item, {**extra, "image": source.image[None]}, refining=True)
        return Painted(outputs["refined_image"][0], outputs["latents"][0])

    def from_latents(self, item: WorkItem, latents: np.ndarray, step: int) -> Painted:
        """Resumed by the large variant, from its step ``step`` on."""
        extra = {"start_latents": latents[None], "start_step": _batch([step], np.int32)}
        outputs = self._run(self._deployment.large, "_resume", item, extra)
        return Painted(outputs["image"][0], outputs["latents"][0])

    def with_lora(self, variant: str, item: WorkItem, lora: str | None, join_step: int = 0) -> Painted:
        """By a variant, with a LoRA from exactly that step on, or without."""
        told: Parameters = {"lora": lora, "lora_join_step": join_step} if lora else {}
        outputs = self._run(variant, "", item, {}, parameters=told)
        return Painted(outputs["image"][0], outputs["latents"][0])

    def _run(
        self,
        variant: str,
        pipeline: str,
        item: WorkItem,
        extra: dict[str, np.ndarray],
        refining: bool = False,
        parameters: Parameters | None = None,
    ) -> dict[str, np.ndarray]:
        request = GenerateRequest(item.caption, seed=item.seed)
        sampling = self._deployment.sampling(request, self._deployment.variant(variant), refining)
        inputs = {
            "prompt": _batch([request.prompt.encode()], np.object_),
            "negative_prompt": _batch([b""], np.object_),
            "seed": _batch([sampling.seed], np.int64),
            "num_inference_steps": _batch([sampling.num_inference_steps], np.int32),
            "guidance_scale": _batch([sampling.guidance_scale], np.float32),
            "scheduler": _batch([sampling.scheduler.encode()], np.object_),
            "height": _batch([sampling.height], np.int32),
            "width": _batch([sampling.width], np.int32),
        }
        call = Call(variant + pipeline, {**inputs, **extra}, parameters or {})
        # Ensembles have no front door that waits while a model below them is restarted.
        return dict(insist(lambda: self._transport.infer(call, self._patience_s), self._wait))


def _batch(row: Sequence[Any], dtype: Any) -> np.ndarray:
    return np.array([row], dtype=dtype)
