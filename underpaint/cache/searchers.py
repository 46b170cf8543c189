"""How the vectors of a shelf are arranged to be searched: flat, as lists, or sealed for a GPU. All of one interface.

Chosen by measuring, one EPYC core, 512 dimensions, text-to-image queries (see ``bench.cache``), recall@1 after exact
re-ranking of 8: flat 0.4 ms at 8,000; 20,000: inverted file with 96 of 4√n lists 0.24 ms, recall 0.99, built in 1 s,
HNSW (M 32, ef 64) 0.23 ms, 0.986, 5 s; 50,000: inverted file 0.45 ms, 0.99, 3.5 s.
"""

from __future__ import annotations

import math
from typing import Any, Protocol

import faiss
import numpy as np

_LISTS_PER_SQRT = 4
_PROBES = 96
_POINTS_PER_LIST = 32  # that the lists' centres are learnt from
_REBUILD_AT_FACTOR = 4  # grown or shrunk so much since, lists no longer fit
_FP16 = faiss.ScalarQuantizer.QT_fp16
_MOST = 2048  # that FAISS looks for on a GPU


class Searcher(Protocol):
    """Keys and vectors in some arrangement. ``room`` is how many it was arranged for."""

    room: int

    def __len__(self) -> int: ...
    def fits(self, flat_max: int) -> bool: ...
    def add(self, keys: np.ndarray, vectors: np.ndarray) -> None: ...
    def remove(self, keys: np.ndarray) -> None: ...
    def search(self, vector: np.ndarray, count: int, selector: Any) -> np.ndarray: ...
    def contents(self) -> tuple[np.ndarray, np.ndarray]: ...


class Flat:
    """Every vector is compared."""

    def __init__(self, dimension: int, room: int) -> None:
        self.room = room
        self._dimension = dimension
        self._vectors = faiss.IndexScalarQuantizer(dimension, _FP16, faiss.METRIC_INNER_PRODUCT)
        self._index = faiss.IndexIDMap(self._vectors)

    def __len__(self) -> int:
        return int(self._index.ntotal)

    def fits(self, flat_max: int) -> bool:
        return len(self) <= flat_max

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


class Lists:
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

    def fits(self, flat_max: int) -> bool:
        """Not outgrown, and not so few that a flat one will do, before half of that."""
        return (
            len(self) > flat_max // 2 and self.room / _REBUILD_AT_FACTOR <= len(self) <= self.room * _REBUILD_AT_FACTOR
        )

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


class Sealed:
    """Every vector is compared, by an index that cannot remove any and knows no keys: a flat one on a GPU.

    What is removed stays in it and is skipped, so more is asked for than is wanted, until so much of it is gone that
    the shelf is rebuilt. ``empty`` is the index to fill. Where more than ``_MOST`` of the nearest are skipped, for
    having gone or for their generation, what lies behind them is not found.
    """

    def __init__(self, keys: np.ndarray, halves: np.ndarray, empty: Any) -> None:
        self.room = len(keys)
        self._index, self._dimension = empty, halves.shape[1]
        self._keys: list[int] = []  # by place in the index
        self._halves: list[np.ndarray] = []  # the same vectors, to rebuild from
        self._places: dict[int, int] = {}  # of what has not gone
        self.add(keys, halves)

    def __len__(self) -> int:
        return len(self._places)

    def fits(self, flat_max: int) -> bool:
        gone = len(self._keys) - len(self)
        return len(self) > flat_max // 2 and gone <= len(self._keys) // _REBUILD_AT_FACTOR

    def add(self, keys: np.ndarray, vectors: np.ndarray) -> None:
        for begin in range(0, len(keys), 65536):
            part, halves = keys[begin : begin + 65536].tolist(), vectors[begin : begin + 65536].astype(np.float16)
            self._index.add(halves.astype(np.float32))
            self._places.update(zip(part, range(len(self._keys), len(self._keys) + len(part)), strict=True))
            self._keys += part
            self._halves.append(halves)

    def remove(self, keys: np.ndarray) -> None:
        for key in keys.tolist():
            self._places.pop(key, None)

    def search(self, vector: np.ndarray, count: int, selector: Any) -> np.ndarray:
        asked, most = 2 * count, min(len(self._keys), _MOST)
        while True:
            places = self._index.search(vector[None], min(asked, most))[1][0].tolist()
            found = [self._keys[place] for place in places if place >= 0 and self._is_wanted(place, selector)]
            if len(found) >= count or asked >= most:
                return np.array(found[:count], np.int64)
            asked *= 4

    def _is_wanted(self, place: int, selector: Any) -> bool:
        key = self._keys[place]
        return self._places.get(key) == place and (selector is None or selector.is_member(key))

    def contents(self) -> tuple[np.ndarray, np.ndarray]:
        """As of ``Flat``."""
        places = np.fromiter(self._places.values(), np.int64, len(self))
        halves = np.concatenate([np.empty((0, self._dimension), np.float16), *self._halves])
        return np.fromiter(self._places, np.int64, len(self)), halves[places]
