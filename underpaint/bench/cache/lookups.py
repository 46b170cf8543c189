"""Lookups and inserts of a cache of so many entries, timed, and compared with an exact search.

The store is filled by a process of its own, so that the memory measured is the cache's alone. Times are wall clock;
those named ``cpu`` count what the calling thread itself computed, which other work on the machine does not change.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil

from underpaint.bench.cache.served import ServedCache
from underpaint.bench.cache.vectors import World
from underpaint.cache.cache import ImageCache
from underpaint.cache.entries import IMAGE, TEXT, NewEntry
from underpaint.cache.files import IMAGE_STEP, Fingerprint
from underpaint.cache.scope import ImageScope, LatentsScope
from underpaint.cache.store import Store

SCOPES = 20
QUERIES = (
    "texts, far from what is stored as CLIP's are from images (see underpaint/bench/cache/vectors.py); half reword "
    "what is stored, half are fresh; spread evenly over the scopes, in random order"
)
LOOKUPS, INSERTS = 4000, 500
_WARM_UP = 200
_AT_A_TIME = 500
_ROUNDING = 1e-5  # by which the same similarity may differ
_STEPS = (5, 10, 15, 20, 25)

Tell = Callable[[int], None]  # so many more entries are stored, or measurements made


@dataclass(frozen=True)
class Job:
    entries: int
    dimension: int = 512
    seed: int = 0

    @property
    def measurements(self) -> int:
        """What ``tell`` adds up to in ``measure``; in ``measure_served`` it is ``LOOKUPS``."""
        return self.entries + 2 * LOOKUPS + INSERTS

    def entries_in(self, scope: int) -> int:
        return len(range(scope, self.entries, SCOPES))


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
    _fill(job, folder, tell)
    database_bytes = sum(path.stat().st_size for path in folder.glob("cache.sqlite*"))
    before_bytes, before_s = _own_memory_bytes(), time.perf_counter()
    with ImageCache(folder, capacity=job.entries + INSERTS) as cache:
        start_s = time.perf_counter() - before_s
        cache.settle()
        ready_s = time.perf_counter() - before_s
        memory_bytes = _own_memory_bytes() - before_bytes
        questions = [_questions(job, scope) for scope in range(SCOPES)]
        image, text = (_search(cache, space, _in_random_order(questions), tell) for space in (IMAGE, TEXT))
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
    asked = _in_random_order([_questions(job, scope) for scope in range(SCOPES)])
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


# What is stored: made from seeds, so that it can be made again instead of kept --------------------------------------


@dataclass(frozen=True)
class _Stored:
    """The entries of one scope: meanings [n, 64], vectors [n, D]."""

    meanings: np.ndarray
    images: np.ndarray
    texts: np.ndarray

    @classmethod
    def of(cls, job: Job, scope: int, count: int, part: int = 0) -> _Stored:
        """``part`` tells apart what is stored at first (0) and later."""
        world, random = World(job.dimension), np.random.default_rng([job.seed, scope, part])
        meanings = world.meanings(random, count)
        return cls(meanings, world.images(random, meanings), world.texts(random, meanings))

    def entries(self, scope: int, image: np.ndarray, steps: Sequence[int]) -> list[NewEntry]:
        tenant = f"tenant-{scope}"
        side = len(image)
        image_scope = _scope(scope)
        latents_scope = LatentsScope(tenant, "none", "none", "ddim", 50, side, side, "float32", 3.0).key()
        return [
            NewEntry(
                prompt="a small red circle above a large striped blue square, on a yellow background",
                tenant=tenant,
                variant="none",
                seed=number,
                image=image,
                image_embedding=self.images[number],
                text_embedding=self.texts[number],
                image_scope=image_scope,
                num_inference_steps=50,
                latents_scope=latents_scope if steps else None,
                latents={step: np.zeros((4, side // 4, side // 4), np.float32) for step in steps},
            )
            for number in range(len(self.images))
        ]


def _scope(number: int) -> str:
    return ImageScope(f"tenant-{number}", "none", 64, 64).key()


def _fill(job: Job, folder: Path, tell: Tell) -> None:
    """Without files, which no lookup reads: a million of them take longer to write than all else."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        for scope in range(SCOPES):
            pool.submit(_fill_scope, job, folder, scope).result()
            tell(job.entries_in(scope))


def _fill_scope(job: Job, folder: Path, scope: int) -> None:
    stored = _Stored.of(job, scope, job.entries_in(scope))
    entries = stored.entries(scope, np.zeros((1, 1, 3), np.uint8), ())
    with _Rows(folder) as store:
        for begin in range(0, len(entries), _AT_A_TIME):
            some = entries[begin : begin + _AT_A_TIME]
            store.insert_all(some, [time.time()] * len(some))


class _Rows(Store):
    """A store as far as lookups go."""

    def _write_files(self, entry_id: int, entry: NewEntry, written: dict[int, Fingerprint]) -> None:
        written[IMAGE_STEP] = Fingerprint.of(b"")


# Lookups and inserts ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Questions:
    """Texts to look up in one scope, [q, D], and by space the similarity of the entry that is nearest to each."""

    scope: str
    texts: np.ndarray
    best: dict[str, np.ndarray]


def _questions(job: Job, scope: int) -> _Questions:
    stored = _Stored.of(job, scope, job.entries_in(scope))
    world, random = World(job.dimension), np.random.default_rng([job.seed, scope, 2])
    half = LOOKUPS // SCOPES // 2
    known = stored.meanings[random.integers(len(stored.meanings), size=half)]
    meanings = np.concatenate([world.reworded(random, known), world.meanings(random, half)])
    texts = world.texts(random, meanings)
    best = {IMAGE: (texts @ stored.images.T).max(axis=1), TEXT: (texts @ stored.texts.T).max(axis=1)}
    return _Questions(_scope(scope), texts, best)


def _in_random_order(questions: Sequence[_Questions]) -> list[tuple[_Questions, int]]:
    """Every question with its number in its scope."""
    all_of_them = [(asked, number) for asked in questions for number in range(len(asked.texts))]
    return [all_of_them[each] for each in np.random.default_rng(0).permutation(len(all_of_them))]


def _search(cache: ImageCache, space: str, order: Sequence[tuple[_Questions, int]], tell: Tell) -> Searched:
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
        _Stored.of(job, scope, INSERTS // SCOPES, part=1).entries(scope, image, _STEPS) for scope in range(SCOPES)
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
