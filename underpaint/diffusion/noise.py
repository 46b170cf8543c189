"""The noise of a request, from its seed alone: whoever else is in the batch cannot change it."""

from __future__ import annotations

import numpy as np


def gaussian(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    """Unit Gaussian noise, float32 of ``shape``, the same on every machine for the same seed (Philox4x64)."""
    return np.random.Generator(np.random.Philox(seed)).standard_normal(shape, dtype=np.float32)
