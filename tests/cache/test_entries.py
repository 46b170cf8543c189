"""What may go into the cache, and what is said of what may not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.cache.making import DIMENSION, entry, image_scope, latents_scope, unit
from underpaint.cache.entries import IMAGE, TEXT, shelves
from underpaint.errors import InvalidArgument

RANDOM = np.random.default_rng(0)
LATENTS = np.zeros((4, 2, 2), np.float32)

REFUSED = {
    "float image": ({"image": np.zeros((8, 8, 3), np.float32)}, "image: got 'float32"),
    "grey image": ({"image": np.zeros((8, 8), np.uint8)}, "image: got 'uint8"),
    "alpha": ({"image": np.zeros((8, 8, 4), np.uint8)}, "image: got"),
    "no pixels": ({"image": np.zeros((0, 8, 3), np.uint8)}, "image: got"),
    "double vector": ({"text_embedding": unit(RANDOM).astype(np.float64)}, "text_embedding: got 'float64"),
    "matrix": ({"image_embedding": unit(RANDOM)[None]}, "image_embedding: got"),
    "long vector": ({"image_embedding": 2 * unit(RANDOM)}, "image_embedding: got 'a vector of length 2'"),
    "nan": (
        {"image_embedding": np.full(DIMENSION, np.nan, np.float32)},
        "image_embedding: got 'a vector of length nan",
    ),
    "zeros": ({"text_embedding": np.zeros(DIMENSION, np.float32)}, "text_embedding: got 'a vector of length 0'"),
    "two lengths": ({"text_embedding": unit(RANDOM, 8)}, "embeddings: lengths: got '16 and 8'"),
    "negative seed": ({"seed": -1}, "seed: got -1"),
    "huge seed": ({"seed": 2**63}, "seed: got"),
    "text for seed": ({"seed": "7"}, "seed: got '7'; allowed: an integer"),
    "truth for seed": ({"seed": True}, "seed: got True"),
    "no steps": ({"num_inference_steps": 0}, "num_inference_steps: got 0"),
    "deep generation": ({"generation": 2**14}, "generation: got 16384; allowed: an integer from 0 to 16383"),
    "source": ({"source": 0}, "source: got 0"),
    "prompt": ({"prompt": None}, "prompt: got None; allowed: a text"),
    "half a character": ({"prompt": "a \ud83d"}, "prompt: got"),
    "number for scope": ({"latents_scope": 3}, "scope: got 3"),
    "no latents scope": ({"latents_scope": None}, "latents_scope: got None"),
    "beyond the last step": ({"latents": {51: LATENTS}}, "latents: step: got 51; allowed: 1 to 50"),
    "finished latents of whom": ({"latents": {50: LATENTS}}, "autoencoder: got ''; allowed: a hash"),
    "first step": ({"latents": {0: LATENTS}}, "latents: step: got 0"),
    "half latents": ({"latents": {5: LATENTS.astype(np.float16)}}, "latents at step 5: got 'float16"),
    "flat latents": ({"latents": {5: LATENTS[0]}}, "latents at step 5: got"),
    "foreign image scope": ({"image_scope": image_scope("mallory")}, "image_scope: got 'mallory/"),
    "foreign latents scope": ({"latents_scope": latents_scope("mallory")}, "latents_scope: got 'mallory/"),
    "made-up scope": ({"image_scope": "default"}, "scope: got 'default'"),
    "tenant": ({"tenant": "a/b"}, "tenant: got 'a/b'"),
    "metadata": ({"metadata": {"a": object()}}, "metadata: got"),
    "metadata nan": ({"metadata": {"a": float("nan")}}, "metadata: got"),
    "metadata list": ({"metadata": [1]}, "metadata: got [1]; allowed: a JSON object"),
}


@pytest.mark.parametrize("changes, message", REFUSED.values(), ids=REFUSED)
def test_refused_with_the_field_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        entry(**changes)
    assert message in str(caught.value)


def test_embedders_of_half_precision_are_near_enough() -> None:
    vector = unit(RANDOM).astype(np.float16).astype(np.float32)
    assert np.linalg.norm(vector) != 1.0
    assert entry(image_embedding=vector).image_embedding is vector


def test_where_an_entry_is_found() -> None:
    assert shelves("a", "b") == [(IMAGE, "a"), (TEXT, "a"), (TEXT, "b")]
    assert shelves("a", None) == [(IMAGE, "a"), (TEXT, "a")]
