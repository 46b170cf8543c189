"""What FAISS takes to find the eight nearest of a million vectors."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Lookup:
    """Of the 8 nearest among ``entries`` vectors of ``dimensions``; milliseconds of a call of ``batch`` queries."""

    index: str
    device: str
    entries: int
    dimensions: int
    batch: int
    p50_ms: float
    p99_ms: float


def lookups(entries: int, dimensions: int, device: str, repeats: int) -> Iterator[Lookup]:
    import faiss

    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((entries, dimensions), np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    index = faiss.IndexFlatIP(dimensions)
    if device == "cuda":
        if not hasattr(faiss, "StandardGpuResources") or faiss.get_num_gpus() == 0:
            raise RuntimeError("this faiss has no GPU: pip install faiss-gpu-cu12, and not faiss-cpu beside it")
        index = faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), 0, index)
    index.add(vectors)
    for batch in (1, 16):
        took = []
        for _ in range(repeats):
            queries = vectors[rng.integers(0, entries, batch)]
            began = time.perf_counter()
            index.search(queries, 8)
            took.append((time.perf_counter() - began) * 1e3)
        p50, p99 = (float(each) for each in np.quantile(took, (0.5, 0.99)))
        yield Lookup("flat inner product", device, entries, dimensions, batch, p50, p99)
