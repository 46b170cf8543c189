"""What goes into the cache, what is kept, and what a lookup gives back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from underpaint.cache.scope import tenant_of
from underpaint.errors import InvalidArgument
from underpaint.requests import check_tenant

IMAGE = "image"  # text query against image embeddings (MoDM)
TEXT = "text"  # text query against text embeddings (Nirvana)
SPACES = (IMAGE, TEXT)

MAX_GENERATION = 2**14 - 1  # what fits beside the id in a key of the index

_MAX_INT64 = 2**63 - 1
_UNIT_TOLERANCE = 1e-3  # float16 embedders come this close to a norm of 1


@dataclass(frozen=True, eq=False)
class NewEntry:
    """A finished image and all that it may be reused by.

    ``image`` is uint8 [H, W, 3]; both embeddings are float32 [D], of length 1. ``latents`` holds the states that were
    captured after so many of ``num_inference_steps`` steps, each float32 [C, h, w]; they come with a
    ``latents_scope``. Those after all steps are the finished ones, for which the hash of their ``autoencoder`` is
    enough. ``generation`` counts how often the image was made from a cached one (0: from noise), and
    ``source`` is the entry that it was made from.

    Raises InvalidArgument, where a field is not as described.
    """

    prompt: str
    tenant: str
    variant: str
    seed: int
    image: np.ndarray
    image_embedding: np.ndarray
    text_embedding: np.ndarray
    image_scope: str
    num_inference_steps: int
    latents_scope: str | None = None
    latents: Mapping[int, np.ndarray] = field(default_factory=dict)
    autoencoder: str = ""
    generation: int = 0
    source: int | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("prompt", "variant", "image_scope", "autoencoder"):
            _check_text(name, getattr(self, name))
        check_tenant(self.tenant)
        _check_integer("seed", self.seed, 0)
        _check_integer("num_inference_steps", self.num_inference_steps, 1)
        _check_integer("generation", self.generation, 0, MAX_GENERATION)
        if self.source is not None:
            _check_integer("source", self.source, 1)
        _check_image(self.image)
        check_embedding("image_embedding", self.image_embedding)
        check_embedding("text_embedding", self.text_embedding)
        if self.image_embedding.shape != self.text_embedding.shape:
            lengths = f"{len(self.image_embedding)} and {len(self.text_embedding)}"
            raise InvalidArgument.of("embeddings: lengths", lengths, "one length for both")
        self._check_latents()
        self._check_scopes()
        self._check_metadata()

    @property
    def steps(self) -> tuple[int, ...]:
        """The steps at which latents were captured, ascending."""
        return tuple(sorted(self.latents))

    def _check_latents(self) -> None:
        finished = self.num_inference_steps in self.latents
        if len(self.latents) > finished and self.latents_scope is None:
            raise InvalidArgument.of("latents_scope", None, "the key of a LatentsScope, where there are latents")
        if finished and not self.autoencoder:
            raise InvalidArgument.of("autoencoder", "", "a hash, where there are finished latents")
        for step, latents in self.latents.items():
            if not 0 < step <= self.num_inference_steps:
                raise InvalidArgument.of("latents: step", step, f"1 to {self.num_inference_steps}")
            if latents.dtype != np.float32 or latents.ndim != 3 or not latents.size:
                raise InvalidArgument.of(f"latents at step {step}", _form(latents), "float32 [C, h, w]")

    def _check_scopes(self) -> None:
        for name in ("image_scope", "latents_scope"):
            key = getattr(self, name)
            if key is not None and tenant_of(key) != self.tenant:
                raise InvalidArgument.of(name, key, f"a scope of the tenant {self.tenant!r}")

    def _check_metadata(self) -> None:
        try:
            written = json.dumps(self.metadata, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise InvalidArgument.of("metadata", self.metadata, f"what JSON can hold ({error})") from None
        if not written.startswith("{"):
            raise InvalidArgument.of("metadata", self.metadata, "a JSON object")


@dataclass(frozen=True)
class Match:
    """An entry that a lookup found. ``steps``: those whose latents are still there, ascending."""

    entry_id: int
    similarity: float
    prompt: str
    variant: str
    seed: int
    generation: int
    steps: tuple[int, ...]
    num_inference_steps: int


@dataclass(frozen=True)
class StoredEntry:
    """An entry as the store lists it, without its vectors and tensors.

    ``created_s``: seconds since 1970; ``uses``: how often its image or latents were fetched.
    """

    entry_id: int
    prompt: str
    tenant: str
    variant: str
    seed: int
    image_scope: str
    latents_scope: str | None
    num_inference_steps: int
    generation: int
    source: int | None
    created_s: float
    pinned: bool
    steps: tuple[int, ...]
    uses: int
    file_bytes: int
    metadata: Mapping[str, Any]
    autoencoder: str


def shelves(image_scope: str, latents_scope: str | None) -> list[tuple[str, str]]:
    """Every (space, scope) under which an entry of these scopes is found.

    Text is searched under the image scope too: a prompt that was painted before is best known by its words, and its
    image fits whether or not there are latents.
    """
    under_latents = [(TEXT, latents_scope)] if latents_scope is not None else []
    return [(IMAGE, image_scope), (TEXT, image_scope), *under_latents]


def check_embedding(name: str, vector: np.ndarray) -> None:
    """Raises InvalidArgument for what is not float32 [D] of length 1."""
    if vector.dtype != np.float32 or vector.ndim != 1 or not vector.size:
        raise InvalidArgument.of(name, _form(vector), "float32 [D]")
    length = float(np.linalg.norm(vector))
    if not abs(length - 1.0) <= _UNIT_TOLERANCE:  # NaN included
        raise InvalidArgument.of(name, f"a vector of length {length:.6g}", "an L2-normalised vector, of length 1")


def check_space(space: str) -> str:
    """Raises InvalidArgument for what is neither ``image`` nor ``text``."""
    if space not in SPACES:
        raise InvalidArgument.of("space", space, ", ".join(SPACES))
    return space


def _check_image(image: np.ndarray) -> None:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise InvalidArgument.of("image", _form(image), "uint8 [H, W, 3]")


def _check_text(name: str, value: object) -> None:
    if not isinstance(value, str) or any("\ud800" <= letter <= "\udfff" for letter in value):
        raise InvalidArgument.of(name, value, "a text")  # half of a surrogate pair is none, and no file takes it


def _check_integer(name: str, value: object, least: int, most: int = _MAX_INT64) -> None:
    if type(value) is not int or not least <= value <= most:
        raise InvalidArgument.of(name, value, f"an integer from {least} to {most}")


def _form(array: np.ndarray) -> str:
    return f"{array.dtype} {list(array.shape)}"
