"""Entries for the cache as they travel: one tensor for all images, and JSON for what is no tensor."""

from __future__ import annotations

import json
from dataclasses import MISSING, fields
from typing import Any

import numpy as np

from underpaint.cache.entries import NewEntry
from underpaint.errors import InvalidArgument
from underpaint.front_door.transport import Tensors
from underpaint.triton.tensors import needed

_TENSORS = ("image", "image_embedding", "text_embedding", "latents")
# What each string of the input ``entry`` may say, and what it must.
_FIELDS = {each.name: each for each in fields(NewEntry) if each.name not in _TENSORS}
_REQUIRED = {name for name, each in _FIELDS.items() if each.default is MISSING and each.default_factory is MISSING}


def new_entries(inputs: Tensors) -> list[NewEntry]:
    """Of one request: ``entry`` [n], ``images`` uint8 [n, H, W, 3], ``image_embeddings`` and ``text_embeddings``, both
    float32 [n, D], and maybe ``latents`` float32 [K, C, h, w] of all of them one after the other, ``latents_steps`` [K]
    and how many belong to each entry, ``latents_counts`` [n]. Raises InvalidArgument."""
    described = [_described(raw.decode("utf-8", errors="replace")) for raw in needed(inputs, "entry").reshape(-1)]
    rows = [_rows(inputs, name, len(described)) for name in ("images", "image_embeddings", "text_embeddings")]
    latents = _latents_by_entry(inputs, len(described))
    return [
        NewEntry(**own, image=image, image_embedding=of_image, text_embedding=of_text, latents=captured)
        for own, image, of_image, of_text, captured in zip(described, *rows, latents, strict=True)
    ]


def _rows(inputs: Tensors, name: str, count: int) -> np.ndarray:
    rows = needed(inputs, name)
    if len(rows) != count:
        raise InvalidArgument.of(name, f"{len(rows)} of them", f"{count}, one for each entry")
    return rows


def _latents_by_entry(inputs: Tensors, entries: int) -> list[dict[int, np.ndarray]]:
    """By step, the latents of each entry; in the request they follow one another."""
    steps = inputs.get("latents_steps", np.empty(0, np.int32)).reshape(-1).tolist()
    states = inputs.get("latents", np.empty((0, 0, 0, 0), np.float32))
    counts = inputs.get("latents_counts", np.array([len(states)] + [0] * (entries - 1), np.int32)).tolist()
    if len(steps) != len(states):
        raise InvalidArgument.of("latents_steps", steps, f"{len(states)} steps, one for each of the latents")
    if len(counts) != entries or sum(counts) != len(states) or min(counts) < 0:
        raise InvalidArgument.of("latents_counts", counts, f"{entries} numbers, {len(states)} in all")
    ends = np.cumsum(counts).tolist()
    own = [slice(end - count, end) for end, count in zip(ends, counts, strict=True)]
    for each in own:
        if len(set(steps[each])) != len(steps[each]):
            raise InvalidArgument.of("latents_steps", steps[each], "every step once")
    return [dict(zip(steps[each], states[each], strict=True)) for each in own]


def _described(raw: str) -> dict[str, Any]:
    """The fields of an entry that are no tensors."""
    try:
        described = json.loads(raw)
    except ValueError:
        described = None
    if not isinstance(described, dict):
        raise InvalidArgument.of("entry", raw, "a JSON object")
    if not _REQUIRED <= set(described) <= set(_FIELDS):
        allowed = f"{', '.join(sorted(_REQUIRED))}; and beside these {', '.join(sorted(set(_FIELDS) - _REQUIRED))}"
        raise InvalidArgument.of("entry: fields", sorted(described), allowed)
    return described
