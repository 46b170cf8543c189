"""Nearest neighbours: one inner-product index per (space, scope), which proposes candidates for an exact ranking.

A shelf begins flat; beyond ``_FLAT_MAX`` vectors it is rebuilt in the background, from its own contents, as an inverted
file, whose lists can be removed from (a graph cannot), or as what a GPU searches (see `searchers`). Until that is done
the flat one serves. Vectors are rounded, to float16 or 8 bits, which is enough to propose.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import faiss
import numpy as np

from underpaint.cache.entries import MAX_GENERATION
from underpaint.cache.searchers import Flat, Lists, Sealed, Searcher
from underpaint.errors import InvalidArgument

LOG = logging.getLogger("underpaint.cache")
NewIndex = Callable[[int], Any]

_FLAT_MAX = 8192
_GENERATION_BIT = 48


class Index:
    """All shelves. Any thread may call; a rebuild delays no search but for a copy.

    Nothing is rebuilt before ``start``, so that what is known from the beginning is put in once.
    """

    def __init__(self, flat_max: int = _FLAT_MAX, on_gpu: NewIndex | None = None) -> None:
        """``on_gpu`` makes an empty index for vectors of a length, where large shelves are searched on a GPU."""
        self._flat_max, self._on_gpu = flat_max, on_gpu
        self._shelves: dict[tuple[str, str], _Shelf] = {}
        self._lock = threading.Lock()
        self._due: queue.Queue[_Shelf | None] = queue.Queue()
        self._closing = False
        self._builder = threading.Thread(target=self._rebuild_due, name="index-builder", daemon=True)

    def start(self) -> None:
        """From now on, rebuild what has outgrown its arrangement."""
        self._builder.start()

    def add(
        self, space: str, scope: str, entry_ids: Sequence[int], generations: Sequence[int], vectors: np.ndarray
    ) -> None:
        """Put entries on a shelf; ``vectors`` float32 [n, D], of length 1.

        Raises InvalidArgument, where the shelf has vectors of another length.
        """
        with self._lock:
            if (space, scope) not in self._shelves:
                self._shelves[space, scope] = _Shelf(vectors.shape[1], self._flat_max, self._on_gpu)
            shelf = self._shelves[space, scope]
            shelf.add(_keys(entry_ids, generations), vectors)
        self._rebuild_if_due(shelf)

    def remove(self, space: str, scope: str, entry_id: int, generation: int) -> None:
        """Take an entry off a shelf; nothing happens where it is not there."""
        with self._lock:
            shelf = self._shelves.get((space, scope))
            if shelf is None:
                return
            shelf.remove(_keys([entry_id], [generation]))
            if not len(shelf):
                del self._shelves[space, scope]
        self._rebuild_if_due(shelf)

    def dimension(self, space: str, scope: str) -> int | None:
        """How long the vectors of a shelf are; None where there is no such shelf yet."""
        shelf = self._shelves.get((space, scope))
        return None if shelf is None else shelf.dimension

    def search(
        self, space: str, scope: str, vector: np.ndarray, count: int, max_generation: int | None = None
    ) -> list[int]:
        """The ids of about the ``count`` entries nearest to ``vector``, float32 [D], best first.

        Raises InvalidArgument, where the shelf has vectors of another length.
        """
        shelf = self._shelves.get((space, scope))
        if shelf is None:
            return []
        keys = shelf.search(vector, count, max_generation)
        return [key & ((1 << _GENERATION_BIT) - 1) for key in keys]

    def settle(self) -> None:
        """Wait until no rebuild is due or under way."""
        self._due.join()

    @property
    def due(self) -> int:
        """Shelves to be rebuilt, or being rebuilt."""
        return self._due.unfinished_tasks

    def sizes(self) -> dict[tuple[str, str], int]:
        """Vectors by (space, scope)."""
        with self._lock:
            return {name: len(shelf) for name, shelf in self._shelves.items()}

    def close(self) -> None:
        """Waits for a rebuild that is under way; begins no other."""
        self._closing = True
        self._due.put(None)
        if self._builder.is_alive():
            self._builder.join()

    def _rebuild_if_due(self, shelf: _Shelf) -> None:
        if shelf.claim_rebuild():
            self._due.put(shelf)

    def _rebuild_due(self) -> None:
        while (shelf := self._due.get()) is not None:
            try:
                if not self._closing:
                    shelf.rebuild()
                    self._rebuild_if_due(shelf)  # it may have grown or shrunk on meanwhile
            except Exception:
                LOG.exception("an index could not be rebuilt; it goes on as it is, slower")
            finally:
                self._due.task_done()
        self._due.task_done()


class _Shelf:
    """One (space, scope): a searcher, and its replacement while one is being built.

    ``_missed`` holds what has happened to the shelf since the replacement was begun; None: none is being built.
    """

    def __init__(self, dimension: int, flat_max: int, on_gpu: NewIndex | None) -> None:
        self.dimension, self._flat_max, self._on_gpu = dimension, flat_max, on_gpu
        self._searcher: Searcher = Flat(dimension, flat_max)
        self._missed: list[Callable[[Searcher], None]] | None = None
        self._claimed = False
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._searcher)

    def add(self, keys: np.ndarray, vectors: np.ndarray) -> None:
        self._check(vectors.shape[1])
        self._change(partial(_add, keys, vectors))

    def remove(self, keys: np.ndarray) -> None:
        self._change(partial(_remove, keys))

    def search(self, vector: np.ndarray, count: int, max_generation: int | None) -> list[int]:
        self._check(len(vector))
        faiss.omp_set_num_threads(1)
        selector = None
        if max_generation is not None:
            selector = faiss.IDSelectorRange(0, (min(max_generation, MAX_GENERATION) + 1) << _GENERATION_BIT)
        with self._lock:
            keys = self._searcher.search(vector, min(count, max(1, len(self._searcher))), selector)
        return [int(key) for key in keys if key >= 0]

    def claim_rebuild(self) -> bool:
        """Whether the searcher no longer suits what it holds, and the caller is the first to be told."""
        with self._lock:
            if self._searcher.fits(self._flat_max) or self._claimed:
                return False
            self._claimed = True
            return True

    def rebuild(self) -> None:
        """Put a searcher that suits in the place of this one, without keeping anybody waiting."""
        faiss.omp_set_num_threads(1)
        with self._lock:
            keys, halves = self._searcher.contents()
            self._missed = []
        try:
            replacement = self._arranged(keys, halves)
            with self._lock:
                for change in self._missed:
                    change(replacement)
                self._searcher = replacement
        finally:
            with self._lock:
                self._missed, self._claimed = None, False

    def _change(self, change: Callable[[Searcher], None]) -> None:
        faiss.omp_set_num_threads(1)
        with self._lock:
            change(self._searcher)
            if self._missed is not None:
                self._missed.append(change)

    def _arranged(self, keys: np.ndarray, halves: np.ndarray) -> Searcher:
        if len(keys) > self._flat_max:
            return Sealed(keys, halves, self._on_gpu(self.dimension)) if self._on_gpu else Lists(keys, halves)
        flat = Flat(self.dimension, self._flat_max)
        flat.add(keys, halves.astype(np.float32))
        return flat

    def _check(self, dimension: int) -> None:
        if dimension != self.dimension:
            raise InvalidArgument.of("embedding", f"{dimension} numbers", f"{self.dimension}, as others in this scope")


def _add(keys: np.ndarray, vectors: np.ndarray, searcher: Searcher) -> None:
    searcher.add(keys, vectors)


def _remove(keys: np.ndarray, searcher: Searcher) -> None:
    searcher.remove(keys)


def _keys(entry_ids: Sequence[int], generations: Sequence[int]) -> np.ndarray:
    """What FAISS knows entries by, int64 [n]: the generation above the id, so that "not above generation g" is a range
    of keys, which FAISS can search by itself."""
    return np.asarray(generations, np.int64) << _GENERATION_BIT | np.asarray(entry_ids, np.int64)
