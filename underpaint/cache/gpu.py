"""FAISS on a GPU, where there is one."""

from __future__ import annotations

import threading
from typing import Any

import faiss
import numpy as np

from underpaint.cache.index import NewIndex
from underpaint.errors import Unsupported


def gpu_index(device: int = 0) -> NewIndex:
    """What makes flat inner-product indexes of float16 on a GPU.

    Raises Unsupported, where this FAISS has no GPU.
    """
    if not hasattr(faiss, "StandardGpuResources"):
        raise Unsupported("index=gpu: this FAISS is built for CPUs; pip install faiss-gpu-cu12, in place of faiss-cpu")
    if faiss.get_num_gpus() <= device:
        raise Unsupported(f"index=gpu: FAISS sees {faiss.get_num_gpus()} GPUs here")
    resources, lock = faiss.StandardGpuResources(), threading.Lock()
    settings = faiss.GpuIndexFlatConfig()
    settings.useFloat16, settings.device = True, device
    return lambda dimension: _OneAtATime(faiss.GpuIndexFlatIP(resources, dimension, settings), lock)


class _OneAtATime:
    """FAISS' GPU resources, which all shelves share, are for one thread at a time."""

    def __init__(self, index: Any, lock: threading.Lock) -> None:
        self._index, self._lock = index, lock

    def add(self, vectors: np.ndarray) -> None:
        with self._lock:
            self._index.add(vectors)

    def search(self, vectors: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        with self._lock:
            scores, places = self._index.search(vectors, count)
        return scores, places
