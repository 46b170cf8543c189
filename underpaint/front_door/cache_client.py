"""Talking to the cache: what it has, and what it should keep."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from underpaint.evidence import Match, Space
from underpaint.front_door.hurry import Hurry
from underpaint.front_door.transport import Transport
from underpaint.latest import Latest

_MODEL = "cache"
_ANSWERED_S = 60.0  # after which the transport itself gives a call up
_READS_AT_ONCE = 8
_INSERTS_AT_ONCE = 2
_STARTS_AT_HAND = 2 * _READS_AT_ONCE  # until the plan that the lookup was for fetches them
_STARTS = ("image", "latents")  # outputs, of which at most one comes
_Key = tuple[int, int, str]  # entry; step, 0 for the image; autoencoder whose finished latents may stand for that


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
    autoencoder: str = ""
    generation: int = 0
    source: int | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Bring:
    """What of the best match is to come along with a lookup, to save a call.

    ``limits``: by falling similarity, from where on latents up to which step are of use; step 0 stands for the image,
    or finished latents of ``autoencoder``, which do as well; empty: none do.
    """

    limits: tuple[tuple[float, int], ...]
    autoencoder: str = ""


@dataclass(frozen=True, eq=False)
class Embeddings:
    """Of images and of their prompts, float32 [n, D] each."""

    images: np.ndarray
    texts: np.ndarray


@dataclass(frozen=True, eq=False)
class Captured:
    """Latents as they were before each of ``steps``, float32 [K, C, h, w]; before the step after the last: finished."""

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
        # What came along with the latest lookups. An entry never changes, so none of it is out of date.
        self._at_hand: Latest[_Key, np.ndarray] = Latest(_STARTS_AT_HAND)

    async def lookup(
        self,
        space: Space,
        scope: str,
        embedding: np.ndarray,
        top_k: int,
        max_generation: int,
        within_s: float,
        bring: Bring | None = None,
    ) -> tuple[Match, ...]:
        """The ``top_k`` entries of ``scope`` that are closest to ``embedding``, float32 [D], in ``space``; best first.

        What it is told to ``bring`` is at hand then, for ``start`` and ``latents``.
        """
        inputs = {
            "op": _text("lookup"),
            "space": _text(space),
            "scope": _text(scope),
            "embedding": embedding,
            "top_k": np.array([top_k], np.int32),
            "max_generation": np.array([max_generation], np.int32),
        }
        if bring is not None:
            inputs["bring_from"] = np.array([similarity for similarity, _ in bring.limits], np.float32)
            inputs["bring_step"] = np.array([step for _, step in bring.limits], np.int32)
            inputs["autoencoder"] = _text(bring.autoencoder)
        outputs = await self._reads.call(lambda: self._infer(inputs, "matches", *_STARTS), within_s)
        found = json.loads(outputs["matches"].item())
        matches = tuple(_match(raw) for raw in found)
        for start in _started(outputs):
            self._at_hand.put((matches[0].entry_id, found[0]["brought"], bring.autoencoder if bring else ""), start)
        return matches

    def has_latents(self, entry_id: int, step: int) -> bool:
        """Whether they came along with a lookup."""
        return (entry_id, step, "") in self._at_hand

    async def start(self, entry_id: int, autoencoder: str, within_s: float) -> np.ndarray:
        """The finished latents of an entry, float32 [C, h, w], where it has any of this autoencoder; else its image,
        uint8 [H, W, 3]."""
        return await self._fetch((entry_id, 0, autoencoder), {"autoencoder": _text(autoencoder)}, within_s)

    async def latents(self, entry_id: int, step: int, within_s: float) -> np.ndarray:
        """The latents of an entry as they were before ``step``, float32 [C, h, w]."""
        return await self._fetch((entry_id, step, ""), {"step": np.array([step], np.int32)}, within_s)

    async def _fetch(self, key: _Key, which: Mapping[str, np.ndarray], within_s: float) -> np.ndarray:
        at_hand = self._at_hand.get(key)
        if at_hand is not None:
            return at_hand
        inputs = {"op": _text("fetch"), "entry_id": np.array([key[0]], np.int64), **which}
        (start,) = _started(await self._reads.call(lambda: self._infer(inputs, *_STARTS), within_s))
        return start

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


def _started(outputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    return [outputs[name] for name in _STARTS if name in outputs]


def _text(value: str) -> np.ndarray:
    return np.array([value.encode()], np.object_)


def _json(entry: Entry) -> bytes:
    return json.dumps(vars(entry), ensure_ascii=False).encode()


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
