"""What is stored and what is asked for: made from seeds, so that it can be made again instead of kept."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from underpaint.bench.cache.vectors import World
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
_AT_A_TIME = 500

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
class Stored:
    """The entries of one scope: meanings [n, 64], vectors [n, D]."""

    meanings: np.ndarray
    images: np.ndarray
    texts: np.ndarray

    @classmethod
    def of(cls, job: Job, scope: int, count: int, part: int = 0) -> Stored:
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


def fill(job: Job, folder: Path, tell: Tell) -> None:
    """Without files, which no lookup reads: a million of them take longer to write than all else."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        for scope in range(SCOPES):
            pool.submit(_fill_scope, job, folder, scope).result()
            tell(job.entries_in(scope))


def _fill_scope(job: Job, folder: Path, scope: int) -> None:
    stored = Stored.of(job, scope, job.entries_in(scope))
    entries = stored.entries(scope, np.zeros((1, 1, 3), np.uint8), ())
    with _Rows(folder) as store:
        for begin in range(0, len(entries), _AT_A_TIME):
            some = entries[begin : begin + _AT_A_TIME]
            store.insert_all(some, [time.time()] * len(some))


class _Rows(Store):
    """A store as far as lookups go."""

    def _write_files(self, entry_id: int, entry: NewEntry, written: dict[int, Fingerprint]) -> None:
        written[IMAGE_STEP] = Fingerprint.of(b"")


@dataclass(frozen=True)
class Questions:
    """Texts to look up in one scope, [q, D], and by space the similarity of the entry that is nearest to each."""

    scope: str
    texts: np.ndarray
    best: dict[str, np.ndarray]


def questions_in(job: Job, scope: int) -> Questions:
    stored = Stored.of(job, scope, job.entries_in(scope))
    world, random = World(job.dimension), np.random.default_rng([job.seed, scope, 2])
    half = LOOKUPS // SCOPES // 2
    known = stored.meanings[random.integers(len(stored.meanings), size=half)]
    meanings = np.concatenate([world.reworded(random, known), world.meanings(random, half)])
    texts = world.texts(random, meanings)
    best = {IMAGE: (texts @ stored.images.T).max(axis=1), TEXT: (texts @ stored.texts.T).max(axis=1)}
    return Questions(_scope(scope), texts, best)


def in_random_order(questions: Sequence[Questions]) -> list[tuple[Questions, int]]:
    """Every question with its number in its scope."""
    all_of_them = [(asked, number) for asked in questions for number in range(len(asked.texts))]
    return [all_of_them[each] for each in np.random.default_rng(0).permutation(len(all_of_them))]
