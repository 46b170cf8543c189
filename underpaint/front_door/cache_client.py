"""Talking to the cache: what it has, and what it should keep."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from underpaint.evidence import Match, Space
from underpaint.front_door.hurry import Hurry
from underpaint.front_door.transport import Transport

_MODEL = "cache"
_ANSWERED_S = 60.0  # after which the transport itself gives a call up
_READS_AT_ONCE = 8
_INSERTS_AT_ONCE = 2
_IMAGES_AT_HAND = 2 * _READS_AT_ONCE  # until the plan that the lookup was for fetches them
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
    """Of images and of their prompts, float32 [n, D] each."""

    images: np.ndarray
    texts: np.ndarray


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
        self._at_hand = _AtHand()

    async def lookup(
        self,
        space: Space,
        scope: str,
        embedding: np.ndarray,
        max_generation: int,
        within_s: float,
        image_from: float | None = None,
    ) -> tuple[Match, ...]:
        """The entries of ``scope`` that are closest to ``embedding``, float32 [D], in ``space``; best first.

        ``image_from``: from this similarity on the best one's image comes along, to save a call: ``image`` has it then.
        """
        inputs = {
            "op": _text("lookup"),
            "space": _text(space),
            "scope": _text(scope),
            "embedding": embedding,
            "top_k": np.array([_TOP_K], np.int32),
            "max_generation": np.array([max_generation], np.int32),
        }
        if image_from is not None:
            inputs["image_from"] = np.array([image_from], np.float32)
        outputs = await self._reads.call(lambda: self._infer(inputs, "matches", "image"), within_s)
        matches = tuple(_match(raw) for raw in json.loads(outputs["matches"].item()))
        if "image" in outputs:
            self._at_hand.put(matches[0].entry_id, outputs["image"])
        return matches

    async def image(self, entry_id: int, within_s: float) -> np.ndarray:
        """The image of an entry, uint8 [H, W, 3]."""
        at_hand = self._at_hand.get(entry_id)
        if at_hand is not None:
            return at_hand
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
        self,
        entries: Sequence[Entry],
        images: np.ndarray,
        embeddings: Embeddings,
        captured: Sequence[Captured | None],
        within_s: float,
    ) -> list[int]:
        """Keep images, uint8 [n, H, W, 3], and what was captured of each; their ids, once all are safely stored."""
        inputs = {
            "op": _text("insert"),
            "entry": np.array([_json(entry) for entry in entries], np.object_),
            "images": images,
            "image_embeddings": embeddings.images,
            "text_embeddings": embeddings.texts,
        }
        held = [each for each in captured if each is not None]
        if held:
            inputs |= {
                "latents": np.concatenate([each.latents for each in held]),
                "latents_steps": np.concatenate([np.array(each.steps, np.int32) for each in held]),
                "latents_counts": np.array([len(each.steps) if each else 0 for each in captured], np.int32),
            }
        outputs = await self._inserts.call(lambda: self._infer(inputs, "entry_id"), within_s)
        return outputs["entry_id"].tolist()

    async def _infer(self, inputs: Mapping[str, np.ndarray], *outputs: str) -> Mapping[str, np.ndarray]:
        return await self._transport.infer(_MODEL, inputs, outputs, _ANSWERED_S)


class _AtHand:
    """The images that came along with the latest lookups. An entry never changes, so none of them is out of date."""

    def __init__(self) -> None:
        self._images: OrderedDict[int, np.ndarray] = OrderedDict()

    def put(self, entry_id: int, image: np.ndarray) -> None:
        self._images[entry_id] = image
        self._images.move_to_end(entry_id)
        if len(self._images) > _IMAGES_AT_HAND:
            self._images.popitem(last=False)

    def get(self, entry_id: int) -> np.ndarray | None:
        return self._images.get(entry_id)


def _text(value: str) -> np.ndarray:
    return np.array([value.encode()], np.object_)


def _json(entry: Entry) -> bytes:
    return json.dumps(asdict(entry), ensure_ascii=False).encode()


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
