"""How much of a stream of prompts a cache of so many prompts serves, by eviction strategy. Nothing is painted.

Each prompt looks up the nearest one that is still cached, as Nirvana does: by text, with its published table of how
many of 50 steps may be skipped, and resumes from the last state that is left at or below that. A hit is not inserted; a
miss is, with states at 5, 10, 15, 20 and 25. All strategies get the same room: that of so many prompts' states.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from underpaint.cache.eviction import Evictor, Strategy
from underpaint.policies.nirvana import PUBLISHED, PUBLISHED_SHARES, kept_steps

STEPS = 50

_ROWS_AT_A_TIME = 256


@dataclass(frozen=True)
class Served:
    """Shares: of prompts that started from the cache, and of all denoising steps that were skipped."""

    hit_rate: float
    steps_saved: float


def replay(
    embeddings: np.ndarray, sizes: Sequence[int], tell: Callable[[int], None]
) -> Mapping[int, Mapping[Strategy, Served]]:
    """Send prompts, float32 [n, D] of length 1, in order, through caches of ``sizes`` prompts; ``tell(done)``."""
    streams = {(size, strategy): _Stream(strategy, size, len(embeddings)) for size in sizes for strategy in Strategy}
    for begin in range(0, len(embeddings), _ROWS_AT_A_TIME):
        end = min(begin + _ROWS_AT_A_TIME, len(embeddings))
        similarities = embeddings[begin:end] @ embeddings[:end].T
        for number, row in zip(range(begin, end), similarities, strict=True):
            for stream in streams.values():
                stream.ask(number, row[:number])
        tell(end - begin)
    return {size: {strategy: streams[size, strategy].served for strategy in Strategy} for size in sizes}


class _Stream:
    """One cache, and what it has served. Prompts are numbered from 0, entries of the evictor from 1."""

    def __init__(self, strategy: Strategy, size: int, prompts: int) -> None:
        self._kept = kept_steps(STEPS, PUBLISHED_SHARES)
        self._evictor = Evictor(strategy, size * len(self._kept) if strategy.by_state else size)
        self._absent = np.full(prompts, np.inf, np.float32)  # 0 for those in the cache
        self._hits = self._skipped = self._asked = 0

    @property
    def served(self) -> Served:
        return Served(self._hits / self._asked, self._skipped / self._asked / STEPS)

    def ask(self, number: int, similarities: np.ndarray) -> None:
        """The next prompt, and how similar it is to each before it."""
        self._asked += 1
        step, nearest = 0, -1
        if number:
            cached = similarities - self._absent[:number]
            nearest = int(np.argmax(cached))
            step = self._resumed(nearest, float(cached[nearest]))
        if step:
            self._hits += 1
            self._skipped += step
            self._evictor.use(nearest + 1, step)
        else:
            self._insert(number)

    def _resumed(self, nearest: int, similarity: float) -> int:
        """The step to go on from; 0 where there is none."""
        allowed = PUBLISHED.steps(similarity, STEPS) if np.isfinite(similarity) else 0
        left = self._evictor.steps_of(nearest + 1)
        steps = self._kept if left == (None,) else [step for step in left if step is not None]
        return max((step for step in steps if step <= allowed), default=0)

    def _insert(self, number: int) -> None:
        for unit in self._evictor.make_room(self._evictor.cost(self._kept)):
            if not self._evictor.steps_of(unit.entry_id):
                self._absent[unit.entry_id - 1] = np.inf
        self._evictor.add(number + 1, self._kept, STEPS)
        self._absent[number] = 0.0
