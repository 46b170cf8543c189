"""Lookups and inserts of a cache of so many entries, timed, and compared with an exact search.

The store is filled by a process of its own, so that the memory measured is the cache's alone. Times are wall clock;
those named ``cpu`` count what the calling thread itself computed, which other work on the machine does not change.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil

from underpaint.bench.cache.served import ServedCache
from underpaint.bench.cache.stored import (
    INSERTS,
    SCOPES,
    Job,
    Questions,
    Stored,
    Tell,
    fill,
    in_random_order,
    questions_in,
)
from underpaint.cache.cache import ImageCache
from underpaint.cache.entries import IMAGE, TEXT

_WARM_UP = 200
_ROUNDING = 1e-5  # by which the same similarity may differ
_STEPS = (5, 10, 15, 20, 25)


@dataclass(frozen=True)
class Searched:
    """Lookups in one space. ``value_recall``: the similarity found, as a share of the best there is."""

    lookup_p50_ms: float
    lookup_p99_ms: float
    lookup_cpu_p50_ms: float
    lookup_cpu_p99_ms: float
    recall_at_1: float
    value_recall: float


@dataclass(frozen=True)
class CacheFigures:
    """``start_s``: until lookups are answered; ``ready_s``: until they are as fast as measured here."""

    image: Searched
    text: Searched
    insert_p50_ms: float
    insert_p99_ms: float
    insert_cpu_p99_ms: float
    memory_mb: float
    database_mb: float
    start_s: float
    ready_s: float


@dataclass(frozen=True)
class ServedFigures:
    """Lookups of images through tritonserver, one after another."""

    lookup_p50_ms: float
    lookup_p99_ms: float
    recall_at_1: float


def measure(job: Job, folder: Path, tell: Tell) -> CacheFigures:
    """Fill a store at ``folder``, which must be empty, and measure a cache on it."""
    fill(job, folder, tell)
    database_bytes = sum(path.stat().st_size for path in folder.glob("cache.sqlite*"))
    before_bytes, before_s = _own_memory_bytes(), time.perf_counter()
    with ImageCache(folder, capacity=job.entries + INSERTS) as cache:
        start_s = time.perf_counter() - before_s
        cache.settle()
        ready_s = time.perf_counter() - before_s
        memory_bytes = _own_memory_bytes() - before_bytes
        questions = [questions_in(job, scope) for scope in range(SCOPES)]
        image, text = (_search(cache, space, in_random_order(questions), tell) for space in (IMAGE, TEXT))
        wall_ms, cpu_ms = _insert(cache, job, tell)
    return CacheFigures(
        image=image,
        text=text,
        insert_p50_ms=_percentile(wall_ms, 50),
        insert_p99_ms=_percentile(wall_ms, 99),
        insert_cpu_p99_ms=_percentile(cpu_ms, 99),
        memory_mb=round(memory_bytes / 1e6, 1),
        database_mb=round(database_bytes / 1e6, 1),
        start_s=round(start_s, 2),
        ready_s=round(ready_s, 2),
    )


def measure_served(job: Job, cache: ServedCache, tell: Tell) -> ServedFigures:
    """The same lookups through a server of the store that ``measure`` has left; its inserts are in no one's way."""
    asked = in_random_order([questions_in(job, scope) for scope in range(SCOPES)])
    cache.settle()
    for each, number in asked[:_WARM_UP]:
        cache.best(IMAGE, each.scope, each.texts[number])
    wall_ms, found = [], []
    for each, number in asked:
        begin_s = time.perf_counter()
        similarity = cache.best(IMAGE, each.scope, each.texts[number])
        wall_ms.append((time.perf_counter() - begin_s) * 1e3)
        found.append(similarity >= each.best[IMAGE][number] - _ROUNDING)
        tell(1)
    return ServedFigures(_percentile(wall_ms, 50), _percentile(wall_ms, 99), round(float(np.mean(found)), 4))


def _own_memory_bytes() -> int:
    """Without what is shared with other processes, as libraries are."""
    memory = psutil.Process().memory_info()
    return int(memory.rss - memory.shared)


def _search(cache: ImageCache, space: str, order: Sequence[tuple[Questions, int]], tell: Tell) -> Searched:
    for asked, number in order[:_WARM_UP]:
        cache.lookup(space, asked.scope, asked.texts[number])
    wall_ms, cpu_ms, found, best = [], [], [], []
    for asked, number in order:
        begin_s, begin_cpu_s = time.perf_counter(), time.thread_time()
        matches = cache.lookup(space, asked.scope, asked.texts[number])
        wall_ms.append((time.perf_counter() - begin_s) * 1e3)
        cpu_ms.append((time.thread_time() - begin_cpu_s) * 1e3)
        found.append(matches[0].similarity if matches else 0.0)
        best.append(asked.best[space][number])
        tell(1)
    return Searched(
        lookup_p50_ms=_percentile(wall_ms, 50),
        lookup_p99_ms=_percentile(wall_ms, 99),
        lookup_cpu_p50_ms=_percentile(cpu_ms, 50),
        lookup_cpu_p99_ms=_percentile(cpu_ms, 99),
        recall_at_1=round(float(np.mean(np.array(found) >= np.array(best) - _ROUNDING)), 4),
        value_recall=round(float(np.sum(found) / np.sum(best)), 5),
    )


def _insert(cache: ImageCache, job: Job, tell: Tell) -> tuple[list[float], list[float]]:
    """Entries of 64 x 64 pixels with five latents, into all scopes in turn: milliseconds, by the clock and of CPU."""
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    by_scope = [
        Stored.of(job, scope, INSERTS // SCOPES, part=1).entries(scope, image, _STEPS) for scope in range(SCOPES)
    ]
    wall_ms, cpu_ms = [], []
    for entry in (each for some in zip(*by_scope, strict=True) for each in some):
        begin_s, begin_cpu_s = time.perf_counter(), time.thread_time()
        cache.insert(entry)
        wall_ms.append((time.perf_counter() - begin_s) * 1e3)
        cpu_ms.append((time.thread_time() - begin_cpu_s) * 1e3)
        tell(1)
    return wall_ms, cpu_ms


def _percentile(values: Sequence[float], percent: float) -> float:
    return round(float(np.percentile(values, percent)), 3)
