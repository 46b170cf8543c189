"""Entries for these tests: small, and each different from all others."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from underpaint.cache.entries import NewEntry
from underpaint.cache.scope import ImageScope, LatentsScope
from underpaint.requests import DEFAULT_TENANT

DIMENSION = 16
STEPS = (5, 10, 15)


def unit(random: np.random.Generator, dimension: int = DIMENSION) -> np.ndarray:
    vector = random.standard_normal(dimension).astype(np.float32)
    return vector / np.linalg.norm(vector)


def image_scope(tenant: str = DEFAULT_TENANT, **changes: Any) -> str:
    return replace(ImageScope(tenant, "embedder", 64, 64), **changes).key()


def latents_scope(tenant: str = DEFAULT_TENANT, **changes: Any) -> str:
    scope = LatentsScope(tenant, "embedder", "weights", "ddim", 50, 64, 64, "float32", 3.0)
    return replace(scope, **changes).key()


def entry(number: int = 0, tenant: str = DEFAULT_TENANT, steps: tuple[int, ...] = STEPS, **changes: Any) -> NewEntry:
    """Everything in it follows from ``number``."""
    random = np.random.default_rng(number)
    made = NewEntry(
        prompt=f"prompt {number}",
        tenant=tenant,
        variant="tiny-l",
        seed=number,
        image=random.integers(0, 256, (8, 8, 3), dtype=np.uint8),
        image_embedding=unit(random),
        text_embedding=unit(random),
        image_scope=image_scope(tenant),
        num_inference_steps=50,
        latents_scope=latents_scope(tenant) if steps else None,
        latents={step: random.standard_normal((4, 2, 2)).astype(np.float32) for step in steps},
        metadata={"number": number},
    )
    return replace(made, **changes)
