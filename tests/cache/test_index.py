"""The index: exact where it is flat, near enough beyond, and up to date through additions, removals and rebuilds."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import faiss
import numpy as np
import pytest

from tests.cache.making import unit
from underpaint.cache.entries import MAX_GENERATION
from underpaint.cache.gpu import gpu_index
from underpaint.cache.index import Index
from underpaint.cache.searchers import Flat, Lists, Sealed
from underpaint.errors import InvalidArgument, Unsupported

FLAT_MAX = 100
SCOPE = ("text", "a")


@pytest.fixture(params=[Lists, Sealed])
def index(request: pytest.FixtureRequest) -> Iterator[Index]:
    """Sealed ones are on a CPU here; a GPU's are of the same interface."""
    made = Index(flat_max=FLAT_MAX, on_gpu=faiss.IndexFlatIP if request.param is Sealed else None)
    made.start()
    yield made
    made.close()


def units(count: int, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    return np.stack([unit(random) for _ in range(count)])


def put(index: Index, vectors: np.ndarray, first_id: int = 1, generation: int = 0) -> list[int]:
    ids = list(range(first_id, first_id + len(vectors)))
    index.add(*SCOPE, ids, [generation] * len(ids), vectors)
    return ids


def large(index: Index) -> type:
    """How the large shelves of this index are arranged."""
    return Sealed if index._on_gpu else Lists


def arrangement(index: Index) -> type:
    return type(index._shelves[SCOPE]._searcher)


def contents(index: Index) -> dict[int, np.ndarray]:
    shelf = index._shelves.get(SCOPE)
    keys, halves = shelf._searcher.contents() if shelf else (np.empty(0, np.int64), np.empty((0, 16)))
    assert len(set(keys.tolist())) == len(keys), "twice in the index"
    return {int(key) & (2**48 - 1): half for key, half in zip(keys, halves, strict=True)}


def test_a_flat_shelf_finds_the_nearest_in_order(index: Index) -> None:
    vectors = units(FLAT_MAX)
    put(index, vectors)
    for query in units(20, seed=1):
        assert index.search(*SCOPE, query, 8) == (np.argsort(-(vectors @ query))[:8] + 1).tolist()


def test_a_large_shelf_becomes_lists_and_finds_nearly_as_well(index: Index) -> None:
    vectors = units(20 * FLAT_MAX)
    put(index, vectors)
    index.settle()
    assert arrangement(index) is large(index)
    queries = units(200, seed=1)
    found = sum(int(np.argmax(vectors @ query)) + 1 in index.search(*SCOPE, query, 8) for query in queries)
    assert found >= 196


def test_nothing_is_rebuilt_before_the_start() -> None:
    index = Index(flat_max=FLAT_MAX)
    for number in range(10):
        put(index, units(FLAT_MAX, seed=number), first_id=1000 * number + 1)
    assert arrangement(index) is Flat
    assert index.due == 1
    index.start()
    index.settle()
    assert index.due == 0
    assert index._shelves[SCOPE]._searcher.room == 10 * FLAT_MAX, "once, with all of them"
    index.close()


def test_growing_one_by_one_comes_to_the_same(index: Index) -> None:
    """Also while a rebuild is under way in the other thread."""
    vectors = units(8 * FLAT_MAX)
    for number, vector in enumerate(vectors):
        put(index, vector[None], first_id=number + 1)
        if number % 3 == 2:
            index.remove(*SCOPE, number, 0)
    index.settle()
    alive = [number + 1 for number in range(len(vectors)) if (number + 2) % 3 or number + 1 == len(vectors)]
    kept = contents(index)
    assert sorted(kept) == [each for each in alive if each in kept]
    assert set(kept) == {n + 1 for n in range(len(vectors))} - {n for n in range(len(vectors)) if n % 3 == 2}
    for entry_id, half in kept.items():
        assert half.astype(np.float32) @ vectors[entry_id - 1] == pytest.approx(1, abs=0.02), "rounded at each rebuild"


def test_shrinking_leads_back_to_a_flat_shelf_and_to_none(index: Index) -> None:
    ids = put(index, units(3 * FLAT_MAX))
    index.settle()
    assert arrangement(index) is large(index)
    for entry_id in ids[: -FLAT_MAX // 2 + 1]:
        index.remove(*SCOPE, entry_id, 0)
    index.settle()
    assert arrangement(index) is Flat
    assert sorted(contents(index)) == ids[-FLAT_MAX // 2 + 1 :]
    for entry_id in ids[-FLAT_MAX // 2 + 1 :]:
        index.remove(*SCOPE, entry_id, 0)
    assert index.sizes() == {}
    assert index.search(*SCOPE, units(1)[0], 8) == []


def test_lists_are_made_anew_when_they_have_been_outgrown() -> None:
    index = Index(flat_max=FLAT_MAX)
    index.start()
    put(index, units(2 * FLAT_MAX))
    index.settle()
    assert index._shelves[SCOPE]._searcher.room == 2 * FLAT_MAX
    put(index, units(7 * FLAT_MAX, seed=2), first_id=1000)
    index.settle()
    assert index._shelves[SCOPE]._searcher.room == 9 * FLAT_MAX
    index.close()


def test_what_is_sealed_is_made_anew_when_much_of_it_has_gone() -> None:
    index = Index(flat_max=FLAT_MAX, on_gpu=faiss.IndexFlatIP)
    index.start()
    vectors = units(8 * FLAT_MAX)
    ids = put(index, vectors)
    index.settle()
    sealed = index._shelves[SCOPE]._searcher
    gone = ids[: 2 * FLAT_MAX]
    for entry_id in gone:
        index.remove(*SCOPE, entry_id, 0)
        index.remove(*SCOPE, entry_id, 0)  # twice is as good as once
    index.settle()
    assert index._shelves[SCOPE]._searcher is sealed
    for query in vectors[:20]:  # the nearest of all have gone
        expected = np.argsort(-(vectors[2 * FLAT_MAX :] @ query))[:8] + 2 * FLAT_MAX + 1
        assert index.search(*SCOPE, query, 8) == expected.tolist()
    put(index, vectors[:1], first_id=gone[0])  # back again, under its old name
    assert index.search(*SCOPE, vectors[0], 1) == [gone[0]]
    index.remove(*SCOPE, ids[-1], 0)
    index.settle()
    assert index._shelves[SCOPE]._searcher.room == 6 * FLAT_MAX
    assert sorted(contents(index)) == [gone[0], *ids[2 * FLAT_MAX : -1]]
    index.close()


def test_without_a_gpu_it_is_said() -> None:
    with pytest.raises(Unsupported, match=r"index=gpu: (this FAISS is built for CPUs; pip install|FAISS sees 0 GPUs)"):
        gpu_index()


@pytest.mark.parametrize("count", [50, 500], ids=["flat", "lists"])
def test_generations_are_left_out_wholly(index: Index, count: int) -> None:
    """Not only among the first eight: the nearest of the others are found, however many nearer ones are left out."""
    query = units(1)[0]
    near = np.stack([(v / np.linalg.norm(v)).astype(np.float32) for v in query + 0.1 * units(count, seed=3)])
    far = -near
    put(index, near, first_id=1, generation=2)
    put(index, far, first_id=1 + count, generation=1)
    index.settle()
    assert all(entry_id <= count for entry_id in index.search(*SCOPE, query, 8))
    assert all(entry_id > count for entry_id in index.search(*SCOPE, query, 8, max_generation=1))
    assert len(index.search(*SCOPE, query, 8, max_generation=1)) == 8
    assert index.search(*SCOPE, query, 8, max_generation=0) == []


def test_the_deepest_generation_fits(index: Index) -> None:
    vector = units(1)
    put(index, vector, first_id=2**40, generation=MAX_GENERATION)
    assert index.search(*SCOPE, vector[0], 1) == [2**40]
    assert index.search(*SCOPE, vector[0], 1, max_generation=MAX_GENERATION) == [2**40]
    assert index.search(*SCOPE, vector[0], 1, max_generation=10**9) == [2**40]
    assert index.search(*SCOPE, vector[0], 1, max_generation=MAX_GENERATION - 1) == []


def test_scopes_and_spaces_are_apart(index: Index) -> None:
    put(index, units(3))
    query = units(1)[0]
    assert index.search("image", "a", query, 8) == []
    assert index.search("text", "b", query, 8) == []
    index.remove("image", "a", 1, 0)
    assert index.sizes() == {SCOPE: 3}


def test_another_length_is_refused(index: Index) -> None:
    put(index, units(3))
    with pytest.raises(InvalidArgument, match="embedding: got '8 numbers'; allowed: 16, as others in this scope"):
        index.search(*SCOPE, np.ones(8, np.float32), 1)
    with pytest.raises(InvalidArgument, match="embedding: got '8 numbers'"):
        index.add(*SCOPE, [9], [0], np.ones((1, 8), np.float32))
    assert index.dimension(*SCOPE) == 16
    assert index.dimension("image", "a") is None


def test_searches_go_on_beside_changes_and_rebuilds(index: Index) -> None:
    anchor = units(1)
    put(index, anchor, first_id=10**6)
    misses, over = [], threading.Event()

    def search() -> None:
        while not over.is_set():
            if index.search(*SCOPE, anchor[0], 8)[0] != 10**6:
                misses.append(1)

    thread = threading.Thread(target=search)
    thread.start()
    for number, vector in enumerate(units(10 * FLAT_MAX, seed=4)):
        put(index, vector[None], first_id=number + 1)
    index.settle()
    over.set()
    thread.join()
    assert arrangement(index) is large(index)
    assert misses == []
