"""Talking to the cache: what it has, and what it should keep."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from underpaint.evidence import Match, Space
from underpaint.front_door.hurry import Hurry
from underpaint.front_door.transport import Transport

_MODEL = "cache"
_ANSWERED_S = 60.0  # after which the transport itself gives a call up
_READS_AT_ONCE = 8
_INSERTS_AT_ONCE = 4
_TOP_K = 8


@dataclass(frozen=True)
class Entry:
    """What the cache should know of an image. ``source``: the entry that it was made from."""

    prompt: str
    tenant: str
    variant: str
    seed: int
    num_inference_steps: int
    image_scope: str
    latents_scope: str | None = None
    generation: int = 0
    source: int | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Embeddings:
    """Of an image and of its prompt, float32 [D] each."""

    image: np.ndarray
    text: np.ndarray


@dataclass(frozen=True, eq=False)
class Captured:
    """Latents as they were before each of ``steps``, float32 [K, C, h, w]."""

    steps: tuple[int, ...]
    latents: np.ndarray


class CacheClient:
    """The model ``cache``.

    Every method raises TooSlow where it does not answer in time, and otherwise its own UnderpaintError: NotFound for
    what has been evicted.
    """

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._reads = Hurry(_MODEL, _READS_AT_ONCE)
        self._inserts = Hurry(_MODEL, _INSERTS_AT_ONCE)

    async def lookup(
        self, space: Space, scope: str, embedding: np.ndarray, max_generation: int, within_s: float
    ) -> tuple[Match, ...]:
        """The entries of ``scope`` that are closest to ``embedding``, float32 [D], in ``space``; best first."""
        inputs = {
            "op": _text("lookup"),
            "space": _text(space),
            "scope": _text(scope),
            "embedding": embedding,
            "top_k": np.array([_TOP_K], np.int32),
            "max_generation": np.array([max_generation], np.int32),
        }
        outputs = await self._reads.call(lambda: self._infer(inputs, "matches"), within_s)
        return tuple(_match(raw) for raw in json.loads(outputs["matches"].item()))

    async def image(self, entry_id: int, within_s: float) -> np.ndarray:
        """The image of an entry, uint8 [H, W, 3]."""
        inputs = {"op": _text("fetch"), "entry_id": np.array([entry_id], np.int64)}
        return (await self._reads.call(lambda: self._infer(inputs, "image"), within_s))["image"]

    async def latents(self, entry_id: int, step: int, within_s: float) -> np.ndarray:
        """The latents of an entry as they were before ``step``, float32 [C, h, w]."""
        inputs = {
            "op": _text("fetch"),
            "entry_id": np.array([entry_id], np.int64),
            "step": np.array([step], np.int32),
        }
        return (await self._reads.call(lambda: self._infer(inputs, "latents"), within_s))["latents"]

    async def insert(
        self, entry: Entry, image: np.ndarray, embeddings: Embeddings, latents: Captured | None, within_s: float
    ) -> int:
        """Keep an image, uint8 [H, W, 3], and its latents; the id of the new entry, once it is safely stored."""
        inputs = {
            "op": _text("insert"),
            "entry": _text(json.dumps(asdict(entry), ensure_ascii=False)),
            "image": image,
            "image_embedding": embeddings.image,
            "text_embedding": embeddings.text,
        }
        if latents is not None:
            inputs |= {"latents": latents.latents, "latents_steps": np.array(latents.steps, np.int32)}
        outputs = await self._inserts.call(lambda: self._infer(inputs, "entry_id"), within_s)
        return int(outputs["entry_id"].item())

    async def _infer(self, inputs: Mapping[str, np.ndarray], output: str) -> Mapping[str, np.ndarray]:
        return await self._transport.infer(_MODEL, inputs, [output], _ANSWERED_S)


def _text(value: str) -> np.ndarray:
    return np.array([value.encode()], np.object_)


def _match(raw: Mapping[str, Any]) -> Match:
    return Match(
        entry_id=int(raw["entry_id"]),
        similarity=float(raw["similarity"]),
        prompt=str(raw["prompt"]),
        variant=str(raw["variant"]),
        seed=int(raw["seed"]),
        generation=int(raw["generation"]),
        steps=tuple(int(step) for step in raw["steps"]),
    )
