"""Whatever happens, in whatever order: store, files, index and evictor hold the same."""

from __future__ import annotations

import tempfile
from collections import defaultdict
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.cache.making import entry, image_scope, latents_scope
from underpaint.cache.cache import ImageCache
from underpaint.cache.entries import shelves
from underpaint.cache.eviction import Strategy
from underpaint.cache.verify import check
from underpaint.errors import NotFound, Unavailable

TENANTS = ("a", "b")
ACTIONS = st.lists(
    st.one_of(
        st.tuples(
            st.just("insert"), st.sampled_from(TENANTS), st.sampled_from([(), (5,), (5, 10, 15)]), st.integers(0, 2)
        ),
        st.tuples(st.just("fetch"), st.integers(1, 25), st.sampled_from([None, 5, 10, 15])),
        st.tuples(st.just("damage"), st.integers(1, 25), st.sampled_from([0, 5, 10, 15])),
        st.tuples(st.just("pin"), st.integers(1, 25)),
        st.tuples(st.just("unpin"), st.integers(1, 25)),
        st.tuples(st.just("clear"), st.sampled_from(["tenant", "scope", "all"])),
        st.tuples(st.just("restart"), st.integers(3, 9)),
    ),
    max_size=25,
)


def contents(cache: ImageCache) -> dict[tuple[str, str], set[int]]:
    """The entries on each shelf of the index."""
    return {
        name: {int(key) & (2**48 - 1) for key in shelf._searcher.contents()[0]}
        for name, shelf in cache._index._shelves.items()
    }


def check_agreement(cache: ImageCache) -> None:
    store, evictor = cache._store, cache._evictor
    expected = defaultdict(set)
    units = {}
    for stored in store.entries():
        for name in shelves(stored.image_scope, stored.latents_scope if stored.steps else None):
            expected[name].add(stored.entry_id)
        units[stored.entry_id] = (stored.steps or (None,)) if evictor.strategy.by_state else (None,)
    assert contents(cache) == dict(expected)
    assert {entry_id: evictor.steps_of(entry_id) for entry_id in units} == units
    assert evictor.size == sum(map(len, units.values()))
    pinned = sum(len(units[stored.entry_id]) for stored in store.entries() if stored.pinned)
    assert evictor.size <= evictor.capacity or pinned > evictor.capacity
    assert store.totals() == (store.entry_count, store.file_bytes)
    assert {(entry_id, step) for entry_id, step, _ in store.files.present()} == set(store.fingerprints())


def act(cache: ImageCache, name: str, values: list, number: int) -> None:
    if name == "insert":
        tenant, steps, generation = values
        cache.insert(entry(number, tenant, steps, generation=generation))
    elif name == "fetch":
        entry_id, step = values
        cache.fetch_image(entry_id) if step is None else cache.fetch_latents(entry_id, step)
    elif name == "damage":
        path = cache._store.files.path(*values)
        if path.is_file():
            path.write_bytes(b"damaged")
    elif name in ("pin", "unpin"):
        getattr(cache, name)(*values)
    else:
        which = {"tenant": {"tenant": "a"}, "scope": {"scope": latents_scope("b")}, "all": {}}[values[0]]
        cache.clear(**which)


@pytest.mark.parametrize("strategy", Strategy)
@settings(max_examples=15, deadline=None)
@given(actions=ACTIONS)
def test_store_files_index_and_evictor_agree(strategy: Strategy, actions: list[tuple]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        cache = ImageCache(Path(folder), capacity=8, eviction=strategy)
        try:
            for number, (name, *values) in enumerate(actions):
                if name == "restart":
                    cache.close()
                    cache = ImageCache(Path(folder), capacity=values[0], eviction=strategy)
                else:
                    with suppress(NotFound, Unavailable):
                        act(cache, name, values, number)
                check_agreement(cache)
            damaged = {finding.departure for finding in check(cache._store) if finding.kind == "file"}
            assert len(damaged) == len(check(cache._store)), "nothing is wrong but what these actions damaged"
        finally:
            cache.close()


def test_ten_thousand_requests_of_twenty_tenants_never_meet(tmp_path: Path) -> None:
    """Every tenant paints the same few pictures, so that the best match is always next door."""
    tenants = [f"tenant-{number}" for number in range(20)]
    random = np.random.default_rng(0)
    vectors = random.standard_normal((50, 16)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    owners: dict[int, str] = {}
    across = found = 0
    with ImageCache(tmp_path, capacity=300, eviction=Strategy.LRU) as cache:
        for number in range(10_000):
            tenant = tenants[random.integers(20)]
            vector = vectors[random.integers(50)]
            if number % 10 == 0:
                new = entry(number, tenant, (), image_embedding=vector, text_embedding=vector)
                owners[cache.insert(new)] = tenant
                continue
            space = ("image", "text")[random.integers(2)]
            matches = cache.lookup(space, image_scope(tenant), vector, top_k=3)
            found += len(matches)
            across += sum(owners[match.entry_id] != tenant for match in matches)
    assert found > 5000
    assert across == 0
