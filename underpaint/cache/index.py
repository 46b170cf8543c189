"""Nearest neighbours: one inner-product index per (space, scope), which proposes candidates for an exact ranking.

Vectors are kept as float16, so that nothing is lost when an index is rebuilt from itself. A shelf begins flat; beyond
``_FLAT_MAX`` vectors it is rebuilt in the background as an inverted file, whose lists can be removed from (a graph
cannot). Until that is done the flat one serves.

Chosen by measuring, one EPYC core, 512 dimensions, text-to-image queries (see ``bench.cache``), recall@1 after exact
re-ranking of 8: flat 0.4 ms at 8,000; 20,000: inverted file with 96 of 4√n lists 0.24 ms, recall 0.99, built in 1 s,
HNSW (M 32, ef 64) 0.23 ms, 0.986, 5 s; 50,000: inverted file 0.45 ms, 0.99, 3.5 s.
"""

from __future__ import annotations

import logging
import math
import queue
import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

import faiss
import numpy as np

from underpaint.cache.entries import MAX_GENERATION
from underpaint.errors import InvalidArgument

LOG = logging.getLogger("underpaint.cache")

_FLAT_MAX = 8192
_LISTS_PER_SQRT = 4
_PROBES = 96
_POINTS_PER_LIST = 32  # that the lists' centres are learnt from
_REBUILD_AT_FACTOR = 4  # grown or shrunk so much since, lists no longer fit
_GENERATION_BIT = 48
_FP16 = faiss.ScalarQuantizer.QT_fp16


class Index:
    """All shelves. Any thread may call; a rebuild delays no search but for a copy.

    Nothing is rebuilt before ``start``, so that what is known from the beginning is put in once.
    """

    def __init__(self, flat_max: int = _FLAT_MAX) -> None:
        self._flat_max = flat_max
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
                self._shelves[space, scope] = _Shelf(vectors.shape[1], self._flat_max)
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
            except Exception:
                LOG.exception("an index could not be rebuilt; it goes on as it is, slower")
            finally:
                self._due.task_done()
        self._due.task_done()


class _Searcher(Protocol):
    """Keys and vectors in some arrangement. ``room`` is how many it was arranged for."""

    room: int

    def __len__(self) -> int: ...
    def add(self, keys: np.ndarray, vectors: np.ndarray) -> None: ...
    def remove(self, keys: np.ndarray) -> None: ...
    def search(self, vector: np.ndarray, count: int, selector: Any) -> np.ndarray: ...
    def contents(self) -> tuple[np.ndarray, np.ndarray]: ...


class _Flat:
    """Every vector is compared."""

    def __init__(self, dimension: int, room: int) -> None:
        self.room = room
        self._dimension = dimension
        self._vectors = faiss.IndexScalarQuantizer(dimension, _FP16, faiss.METRIC_INNER_PRODUCT)
        self._index = faiss.IndexIDMap(self._vectors)

    def __len__(self) -> int:
        return int(self._index.ntotal)

    def add(self, keys: np.ndarray, vectors: np.ndarray) -> None:
        self._index.add_with_ids(vectors, keys)

    def remove(self, keys: np.ndarray) -> None:
        self._index.remove_ids(keys)

    def search(self, vector: np.ndarray, count: int, selector: Any) -> np.ndarray:
        return self._index.search(vector[None], count, params=faiss.SearchParameters(sel=selector))[1][0]

    def contents(self) -> tuple[np.ndarray, np.ndarray]:
        """Copies of the keys, int64 [n], and of the vectors, float16 [n, D]."""
        codes = faiss.vector_to_array(self._vectors.codes)
        return faiss.vector_to_array(self._index.id_map), codes.view(np.float16).reshape(-1, self._dimension)


class _Lists:
    """An inverted file: only the lists whose centres are nearest to the query are compared."""

    def __init__(self, keys: np.ndarray, halves: np.ndarray) -> None:
        self.room = len(keys)
        self._dimension = halves.shape[1]
        lists = int(_LISTS_PER_SQRT * math.sqrt(len(keys)))
        self._centres = faiss.IndexFlatIP(self._dimension)
        self._index = faiss.IndexIVFScalarQuantizer(
            self._centres, self._dimension, lists, _FP16, faiss.METRIC_INNER_PRODUCT, False
        )
        self._index.cp.spherical = True
        self._index.cp.min_points_per_centroid = 1
        sample = np.random.default_rng(0).permutation(len(keys))[: _POINTS_PER_LIST * lists]
        self._index.train(halves[sample].astype(np.float32))
        self._index.set_direct_map_type(faiss.DirectMap.Hashtable)  # makes removal O(1)
        self.add(keys, halves)

    def __len__(self) -> int:
        return int(self._index.ntotal)

    def add(self, keys: np.ndarray, vectors: np.ndarray) -> None:
        for begin in range(0, len(keys), 65536):  # float32 copies, a part at a time
            end = begin + 65536
            self._index.add_with_ids(vectors[begin:end].astype(np.float32), keys[begin:end])

    def remove(self, keys: np.ndarray) -> None:
        self._index.remove_ids(faiss.IDSelectorArray(len(keys), faiss.swig_ptr(keys)))

    def search(self, vector: np.ndarray, count: int, selector: Any) -> np.ndarray:
        parameters = faiss.SearchParametersIVF(sel=selector, nprobe=_PROBES)
        return self._index.search(vector[None], count, params=parameters)[1][0]

    def contents(self) -> tuple[np.ndarray, np.ndarray]:
        """As of ``_Flat``."""
        lists = self._index.invlists
        sizes = [lists.list_size(number) for number in range(lists.nlist)]
        keys = [faiss.rev_swig_ptr(lists.get_ids(n), size).copy() for n, size in enumerate(sizes) if size]
        codes = [
            faiss.rev_swig_ptr(lists.get_codes(n), size * lists.code_size).copy()
            for n, size in enumerate(sizes)
            if size
        ]
        none = np.empty(0, np.int64), np.empty(0, np.uint8)
        joined = np.concatenate([none[1], *codes]).view(np.float16).reshape(-1, self._dimension)
        return np.concatenate([none[0], *keys]), joined


class _Shelf:
    """One (space, scope): a searcher, and its replacement while one is being built.

    ``_missed`` holds what has happened to the shelf since the replacement was begun; None: none is being built.
    """

    def __init__(self, dimension: int, flat_max: int) -> None:
        self.dimension, self._flat_max = dimension, flat_max
        self._searcher: _Searcher = _Flat(dimension, flat_max)
        self._missed: list[Callable[[_Searcher], None]] | None = None
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
            flat = isinstance(self._searcher, _Flat)
            fits = self._few() if flat else not self._few() and not self._outgrown()
            if fits or self._claimed:
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

    def _change(self, change: Callable[[_Searcher], None]) -> None:
        faiss.omp_set_num_threads(1)
        with self._lock:
            change(self._searcher)
            if self._missed is not None:
                self._missed.append(change)

    def _arranged(self, keys: np.ndarray, halves: np.ndarray) -> _Searcher:
        if len(keys) > self._flat_max:
            return _Lists(keys, halves)
        flat = _Flat(self.dimension, self._flat_max)
        flat.add(keys, halves.astype(np.float32))
        return flat

    def _few(self) -> bool:
        """Whether a flat searcher will do; where there are lists already, not before half of that."""
        limit = self._flat_max if isinstance(self._searcher, _Flat) else self._flat_max // 2
        return len(self._searcher) <= limit

    def _outgrown(self) -> bool:
        size, room = len(self._searcher), self._searcher.room
        return not room / _REBUILD_AT_FACTOR <= size <= room * _REBUILD_AT_FACTOR

    def _check(self, dimension: int) -> None:
        if dimension != self.dimension:
            raise InvalidArgument.of("embedding", f"{dimension} numbers", f"{self.dimension}, as others in this scope")


def _add(keys: np.ndarray, vectors: np.ndarray, searcher: _Searcher) -> None:
    searcher.add(keys, vectors)


def _remove(keys: np.ndarray, searcher: _Searcher) -> None:
    searcher.remove(keys)


def _keys(entry_ids: Sequence[int], generations: Sequence[int]) -> np.ndarray:
    """What FAISS knows entries by, int64 [n]: the generation above the id, so that "not above generation g" is a range
    of keys, which FAISS can search by itself."""
    return np.asarray(generations, np.int64) << _GENERATION_BIT | np.asarray(entry_ids, np.int64)
