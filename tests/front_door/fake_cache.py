"""The cache and the embedders of a server, as the front door sees them through its transport."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from underpaint.errors import InvalidArgument, NotFound
from underpaint.evidence import Match

IMAGE = np.full((4, 6, 3), 200, np.uint8)
LATENTS = np.full((2, 2, 3), 0.5, np.float32)
DIMENSIONS = 8


def a_match(similarity: float, entry_id: int = 1, **changes: Any) -> Match:
    values = {"prompt": "a crimson disc", "variant": "big", "seed": 77, **changes}
    return Match(entry_id, similarity, **values)


def bytes_of(prompt: str) -> np.ndarray:
    """A prompt as its embedder and the scorers read it here: int32 [1, T]."""
    return np.array([list(prompt.encode())], np.int32)


def vector(text: str) -> np.ndarray:
    """An embedding, always the same for the same text: float32 [D], of unit length."""
    random = np.random.default_rng(list(text.encode())).standard_normal(DIMENSIONS)
    return (random / np.linalg.norm(random)).astype(np.float32)


@dataclass(frozen=True, eq=False)
class Inserted:
    entry: dict[str, Any]
    image: np.ndarray
    image_embedding: np.ndarray
    text_embedding: np.ndarray
    latents: np.ndarray | None
    latents_steps: tuple[int, ...]


@dataclass
class FakeCache:
    """Finds what it is told to find, and remembers what it is given.

    Attributes:
        matches: what every lookup finds, as far as its ``max_generation`` allows.
        images, latents, finished: what fetches give, by entry id, and for latents step, or for finished ones the
            autoencoder.
        along: whether what lookups ask for comes along with them.
        failures: what some operations, or embedders, raise.
        hanging: operations, or embedders, that do not answer until ``wake`` is set.
        lookups: the inputs of each, and ``asked`` every operation and embedder, in order; ``inserts``: how many
            entries came with each.
        log: what the door complained of.
    """

    matches: list[Match] = field(default_factory=list)
    images: dict[int, np.ndarray] = field(default_factory=lambda: {1: IMAGE})
    latents: dict[tuple[int, int], np.ndarray] = field(default_factory=dict)
    finished: dict[tuple[int, str], np.ndarray] = field(default_factory=dict)
    along: bool = False
    failures: dict[str, Exception] = field(default_factory=dict)
    hanging: set[str] = field(default_factory=set)
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    lookups: list[dict[str, Any]] = field(default_factory=list)
    inserted: list[Inserted] = field(default_factory=list)
    inserts: list[int] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    log: list[str] = field(default_factory=list)

    models = ("cache", "embed_text", "embed_image")

    async def infer(self, model: str, inputs: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        what = inputs["op"].item().decode() if model == "cache" else model
        self.asked.append(what)
        if what in self.hanging:
            await self.wake.wait()
        await asyncio.sleep(0)
        if what in self.failures:
            raise self.failures[what]
        return getattr(self, f"_{what}")(inputs)

    def _embed_text(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {"embedding": np.stack([vector(bytes(ids.tolist()).decode()) for ids in inputs["input_ids"]])}

    def _embed_image(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        assert (inputs["image"].dtype, inputs["image"].ndim) == (np.uint8, 4)
        return {"embedding": np.stack([vector(f"image {image.flat[0]}") for image in inputs["image"]])}

    def _lookup(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        assert inputs["embedding"].shape == (DIMENSIONS,)
        asked = {n: v.item().decode() if v.dtype == np.object_ else v.tolist() for n, v in inputs.items()}
        self.lookups.append({**asked, "embedding": inputs["embedding"]})
        (limit,) = asked["max_generation"]
        found = [{**asdict(match), "newer": "field"} for match in self.matches if match.generation <= limit]
        brought = self._brought(found[0], inputs) if self.along and found else {}
        return {"matches": np.array([json.dumps(found).encode()], np.object_), **brought}

    def _brought(self, best: dict[str, Any], inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        rows = zip(inputs.get("bring_from", np.empty(0)), inputs.get("bring_step", np.empty(0, int)), strict=True)
        limit = next((step for least, step in rows if best["similarity"] >= least), None)
        if limit is None:
            return {}
        best["brought"] = int(max((step for step in best["steps"] if step <= limit), default=0))
        step = {"step": np.array([best["brought"]], np.int32)} if best["brought"] else {}
        return self._fetch({**inputs, **step, "entry_id": np.array([best["entry_id"]])})

    def _fetch(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        (entry_id,) = inputs["entry_id"].tolist()
        try:
            if "step" in inputs:
                return {"latents": self.latents[entry_id, inputs["step"].item()]}
            finished = self.finished.get((entry_id, inputs["autoencoder"].item().decode()))
            return {"image": self.images[entry_id]} if finished is None else {"latents": finished}
        except KeyError:
            raise NotFound(f"entry {entry_id} has gone") from None

    def _insert(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        count = len(inputs["entry"])
        for name in ("image_embeddings", "text_embeddings"):
            if inputs[name].shape != (count, DIMENSIONS):
                raise InvalidArgument.of(name, inputs[name].shape, "[n, D]")
        ends = np.cumsum(inputs.get("latents_counts", np.zeros(count, np.int32)))[:-1]
        latents = np.split(inputs.get("latents", np.empty((0, 1, 1, 1), np.float32)), ends)
        steps = np.split(inputs.get("latents_steps", np.empty(0, np.int32)), ends)
        rows = (inputs[name] for name in ("images", "image_embeddings", "text_embeddings"))
        for entry, *arrays, states, own in zip(inputs["entry"], *rows, latents, steps, strict=True):
            captured = states if len(own) else None
            self.inserted.append(Inserted(json.loads(entry), *arrays, captured, tuple(own.tolist())))
        self.inserts.append(count)
        return {"entry_id": np.arange(len(self.inserted) - count, len(self.inserted)) + 1}
