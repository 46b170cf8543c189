"""How the vectors of a shelf are arranged to be searched: flat, as lists, or sealed for a GPU. All of one interface.

Chosen by measuring, one EPYC core, 512 dimensions, text-to-image queries (see ``bench.cache``), recall@1 after exact
re-ranking of 8. Flat: 0.4 ms at 8,000. Inverted files of 50,000 (99th percentile, recall, time to build): 56 of 2√n
lists in 8 bits 0.33 ms, 0.992, 1.5 s; 96 of 4√n in float16 0.49 ms, 0.993, 5 s. What takes time is reading vectors that
no cache of the processor holds. 4 bits for two dimensions each and 64 of the best compared again would save a tenth of
a millisecond, but nothing can be removed from such lists; 1 bit (RaBitQ) has a recall of 0.88.
"""

from __future__ import annotations

import math
from typing import Any, Protocol

import faiss
import numpy as np

_LISTS_PER_SQRT = 2
_PROBES = 56
_POINTS_PER_LIST = 100  # that the lists' centres are learnt from, in so many rounds; twice as many rounds over a
_ROUNDS = 5  # third of the points find less (recall 0.973)
_SPARE_RANGE = 0.25  # of the range of the numbers so far, kept on either side for those to come
_REBUILD_AT_FACTOR = 2  # grown or shrunk so much since, lists no longer fit
_GONE_AT_MOST = 0.25  # of what is sealed
_FP16 = faiss.ScalarQuantizer.QT_fp16
_8BIT = faiss.ScalarQuantizer.QT_8bit_uniform
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
    """An inverted file: only the lists whose centres are nearest to the query are compared, and in 8 bits a number.

    What is proposed is compared exactly by whoever asks. An index made of this one's contents rounds them once more.
    """

    def __init__(self, keys: np.ndarray, halves: np.ndarray) -> None:
        self.room = len(keys)
        self._dimension = halves.shape[1]
        lists = int(_LISTS_PER_SQRT * math.sqrt(len(keys)))
        self._centres = faiss.IndexFlatIP(self._dimension)
        self._index = faiss.IndexIVFScalarQuantizer(
            self._centres, self._dimension, lists, _8BIT, faiss.METRIC_INNER_PRODUCT, False
        )
        self._index.cp.spherical = True
        self._index.cp.niter = _ROUNDS
        self._index.cp.min_points_per_centroid = 1
        self._index.sq.rangestat_arg = _SPARE_RANGE
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
        """As of ``Flat``, as near as they are kept."""
        lists = self._index.invlists
        keys, halves = [np.empty(0, np.int64)], [np.empty((0, self._dimension), np.float16)]
        for number in range(lists.nlist):
            if size := lists.list_size(number):
                codes = faiss.rev_swig_ptr(lists.get_codes(number), size * lists.code_size)
                keys.append(faiss.rev_swig_ptr(lists.get_ids(number), size).copy())
                halves.append(self._index.sq.decode(codes.reshape(size, -1)).astype(np.float16))
        return np.concatenate(keys), np.concatenate(halves)


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
        return len(self) > flat_max // 2 and gone <= len(self._keys) * _GONE_AT_MOST

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
