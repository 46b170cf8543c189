"""The facade: what is found, what makes room, what is damaged, and what survives."""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.cache.making import entry, image_scope, latents_scope, unit
from underpaint.cache.cache import ImageCache
from underpaint.cache.entries import IMAGE, TEXT
from underpaint.cache.errors import StoreUnavailable
from underpaint.cache.eviction import Ageing, Strategy
from underpaint.cache.schema import DATABASE
from underpaint.errors import InvalidArgument, NotFound, Unavailable


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[ImageCache]:
    with ImageCache(tmp_path, capacity=100) as opened:
        yield opened


def ids_of(cache: ImageCache, tenant: str = "default") -> list[int]:
    """Everything that a tenant can find, by way of the index."""
    query = unit(np.random.default_rng(0))
    return sorted(match.entry_id for match in cache.lookup(IMAGE, image_scope(tenant), query, 100))


# Finding ------------------------------------------------------------------------------------------------------------


def test_similarity_is_the_exact_cosine(cache: ImageCache) -> None:
    new = [entry(number) for number in range(40)]
    ids = [cache.insert(each) for each in new]
    query = unit(np.random.default_rng(99))
    for space in (IMAGE, TEXT):
        vectors = np.stack([each.image_embedding if space == IMAGE else each.text_embedding for each in new])
        best = np.argsort(-(vectors @ query))[:5]
        matches = cache.lookup(space, new[0].image_scope, query, top_k=5)
        assert [match.entry_id for match in matches] == [ids[each] for each in best]
        assert [match.similarity for match in matches] == pytest.approx((vectors @ query)[best].tolist(), abs=1e-6)


def test_a_match_says_how_it_was_painted(cache: ImageCache) -> None:
    entry_id = cache.insert(entry(1, generation=2))
    (match,) = cache.lookup(TEXT, latents_scope(), entry(1).text_embedding)
    assert match.similarity == pytest.approx(1.0, abs=1e-6)
    assert replace(match, similarity=0.0) == type(match)(entry_id, 0.0, "prompt 1", "tiny-l", 1, 2, (5, 10, 15), 50)


def test_latents_are_not_looked_for_where_only_an_image_is(cache: ImageCache) -> None:
    cache.insert(entry(1, steps=(), latents_scope=latents_scope()))
    assert cache.lookup(TEXT, latents_scope(), entry(1).text_embedding) == []
    assert len(cache.lookup(TEXT, image_scope(), entry(1).text_embedding)) == 1


def test_the_store_has_the_last_word(cache: ImageCache) -> None:
    """Were an index to propose what is of another scope, or has gone, nobody would be given it."""
    foreign = entry(1, "mallory")
    entry_id = cache.insert(foreign)
    cache._index.add(IMAGE, image_scope(), [entry_id, 77], [0, 0], np.stack([foreign.image_embedding] * 2))
    assert cache.lookup(IMAGE, image_scope(), foreign.image_embedding) == []
    assert len(cache.lookup(IMAGE, image_scope("mallory"), foreign.image_embedding)) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((IMAGE, "nobody", unit(np.random.default_rng(0))), "scope: got 'nobody'"),
        (("smell", image_scope(), unit(np.random.default_rng(0))), "space: got 'smell'"),
        ((IMAGE, image_scope(), np.ones(16, np.float32)), "embedding: got 'a vector of length 4'"),
        ((IMAGE, image_scope(), unit(np.random.default_rng(0)), 0), "top_k: got 0; allowed: 1 to 100"),
        ((IMAGE, image_scope(), unit(np.random.default_rng(0)), 1, -1), "max_generation: got -1"),
        ((IMAGE, image_scope(), unit(np.random.default_rng(0), 8)), "embedding: got '8 numbers'; allowed: 16"),
    ],
)
def test_bad_questions_are_refused(cache: ImageCache, arguments: tuple, message: str) -> None:
    cache.insert(entry(1))
    with pytest.raises(InvalidArgument) as caught:
        cache.lookup(*arguments)
    assert message in str(caught.value)


def test_another_embedder_in_the_same_scope_is_refused(cache: ImageCache) -> None:
    cache.insert(entry(1))
    random = np.random.default_rng(0)
    other = entry(2, image_embedding=unit(random, 8), text_embedding=unit(random, 8))
    with pytest.raises(InvalidArgument, match="embeddings: got '8 numbers'; allowed: 16, as others in the scope"):
        cache.insert(other)
    assert cache.stats().entries == 1
    cache.insert(replace(other, image_scope=image_scope(embedder="e2"), latents_scope=latents_scope(embedder="e2")))


# Making room --------------------------------------------------------------------------------------------------------


def test_a_window_moves_on(tmp_path: Path) -> None:
    with ImageCache(tmp_path, capacity=3) as cache:
        ids = [cache.insert(entry(number)) for number in range(5)]
        assert ids_of(cache) == ids[2:]
        with pytest.raises(NotFound, match=rf"entry {ids[0]}: not in the cache, or no longer"):
            cache.fetch_image(ids[0])
        assert cache.stats().evictions == 2
        assert len(list(tmp_path.glob("files/*/*.npy"))) == 3 * 4


def test_lru_goes_by_fetches(tmp_path: Path) -> None:
    with ImageCache(tmp_path, capacity=3, eviction=Strategy.LRU) as cache:
        ids = [cache.insert(entry(number)) for number in range(3)]
        cache.fetch_latents(ids[0], 5)
        cache.fetch_image(ids[1])
        cache.insert(entry(3))
        cache.insert(entry(4))
        assert ids[1] in ids_of(cache)
        assert ids[2] not in ids_of(cache)
        assert ids[0] not in ids_of(cache)


def test_lcbfu_takes_states_and_at_last_the_entry(tmp_path: Path) -> None:
    with ImageCache(tmp_path, capacity=6, eviction=Strategy.LCBFU, ageing=Ageing(None, 0)) as cache:
        first, second = cache.insert(entry(1)), cache.insert(entry(2))
        for step, uses in ((15, 1), (5, 2)):
            for _ in range(uses):
                cache.fetch_latents(first, step)
        third = cache.insert(entry(3))  # 10 of the first goes, then 5 and 10 of the second: all unused
        steps = {m.entry_id: m.steps for m in cache.lookup(TEXT, latents_scope(), entry(1).text_embedding, 10)}
        assert steps == {first: (5, 15), second: (15,), third: (5, 10, 15)}
        fourth = cache.insert(entry(4))  # 15 of the second, and so the second; 5 and 10 of the third
        steps = {m.entry_id: m.steps for m in cache.lookup(TEXT, latents_scope(), entry(1).text_embedding, 10)}
        assert steps == {first: (5, 15), third: (15,), fourth: (5, 10, 15)}
        with pytest.raises(NotFound):
            cache.fetch_image(second)
        assert np.array_equal(cache.fetch_image(third), entry(3).image)
        assert (cache.stats().units, cache.stats().entries) == (6, 3)


def test_what_is_pinned_stays_also_after_a_restart(tmp_path: Path) -> None:
    with ImageCache(tmp_path, capacity=2) as cache:
        pinned = cache.insert(entry(0))
        cache.pin(pinned)
        cache.insert(entry(1))
        cache.insert(entry(2))
        assert pinned in ids_of(cache)
    with ImageCache(tmp_path, capacity=2) as cache:
        cache.insert(entry(3))
        assert pinned in ids_of(cache)
        cache.unpin(pinned)
        cache.insert(entry(4))
        assert pinned not in ids_of(cache)
        with pytest.raises(NotFound, match=f"entry {pinned} is not in the cache"):
            cache.pin(pinned)


def test_several_take_the_place_of_several(tmp_path: Path) -> None:
    with ImageCache(tmp_path, capacity=5) as cache:
        first = cache.insert_all([entry(number) for number in range(4)])
        second = cache.insert_all([entry(number) for number in range(4, 7)])
        assert (first, second) == ([1, 2, 3, 4], [5, 6, 7])
        assert ids_of(cache) == [3, 4, 5, 6, 7]
        assert (cache.stats().inserts, cache.stats().evictions) == (7, 2)
        for entry_id, number in zip(second, range(4, 7), strict=True):
            assert cache.lookup(IMAGE, image_scope(), entry(number).image_embedding)[0].entry_id == entry_id
            assert np.array_equal(cache.fetch_image(entry_id), entry(number).image)


def test_more_than_fit_at_once_go_in_one_by_one(tmp_path: Path) -> None:
    with ImageCache(tmp_path, capacity=3) as cache:
        assert cache.insert_all([entry(number) for number in range(5)]) == [1, 2, 3, 4, 5]
        assert ids_of(cache) == [3, 4, 5]


def test_of_several_all_or_none_go_in(cache: ImageCache, tmp_path: Path) -> None:
    short = {name: unit(np.random.default_rng(1), 8) for name in ("image_embedding", "text_embedding")}
    with pytest.raises(InvalidArgument, match=r"8 numbers.*allowed: 16, as others in the scope"):
        cache.insert_all([entry(1), entry(2, **short)])
    cache.insert(entry(3))
    (tmp_path / "files" / "0" / "3.npy").mkdir(parents=True)  # where the second one's image would go
    with pytest.raises(StoreUnavailable):
        cache.insert_all([entry(4), entry(5)])
    assert ids_of(cache) == [1]
    assert cache.stats().entries == cache.stats().units == 1


def test_full_of_what_is_pinned(tmp_path: Path) -> None:
    with ImageCache(tmp_path, capacity=1) as cache:
        cache.pin(cache.insert(entry(0)))
        with pytest.raises(Unavailable, match="what is pinned must stay: unpin something, or raise the capacity"):
            cache.insert(entry(1))
        assert cache.stats().entries == 1


def test_an_entry_of_more_states_than_there_is_room_for(tmp_path: Path) -> None:
    with ImageCache(tmp_path, capacity=2, eviction=Strategy.LCBFU) as cache:
        kept = cache.insert(entry(0, steps=(5,)))
        with pytest.raises(Unavailable, match="an entry that takes 3 does not fit in a cache of 2: raise its capacity"):
            cache.insert(entry(1))
        assert ids_of(cache) == [kept]


def test_clear(cache: ImageCache) -> None:
    for number in range(6):
        cache.insert(entry(number, f"tenant{number % 3}"))
    cache.pin(ids_of(cache, "tenant0")[0])
    assert cache.clear(tenant="tenant0") == 2, "pinned ones too"
    assert cache.clear(scope=latents_scope("tenant1")) == 2
    assert (ids_of(cache, "tenant0"), ids_of(cache, "tenant1")) == ([], [])
    assert len(ids_of(cache, "tenant2")) == 2
    assert cache.clear() == 2
    assert (cache.stats().entries, cache.stats().units, cache.stats().file_bytes) == (0, 0, 0)
    with pytest.raises(InvalidArgument, match="tenant: got"):
        cache.clear(tenant="a/b")


# Restarts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", Strategy)
def test_a_restart_forgets_nothing(tmp_path: Path, strategy: Strategy) -> None:
    queries = [unit(np.random.default_rng(seed)) for seed in range(10)]
    with ImageCache(tmp_path, capacity=100, eviction=strategy) as cache:
        ids = [cache.insert(entry(number)) for number in range(20)]
        cache.clear(tenant="nobody")
        for entry_id in ids[:10]:
            cache.fetch_image(entry_id)
        found = [cache.lookup(TEXT, latents_scope(), query, 5) for query in queries]
        held = cache.stats()
    with ImageCache(tmp_path, capacity=100, eviction=strategy) as cache:
        assert [cache.lookup(TEXT, latents_scope(), query, 5) for query in queries] == found
        now = cache.stats()
        assert (now.entries, now.units, now.file_bytes) == (held.entries, held.units, held.file_bytes)


def test_uses_count_after_a_restart(tmp_path: Path) -> None:
    for strategy in (Strategy.LRU, Strategy.LFU):
        folder = tmp_path / strategy.value
        with ImageCache(folder, 3, strategy, Ageing(None, 0)) as cache:
            ids = [cache.insert(entry(number)) for number in range(3)]
            cache.fetch_image(ids[0])
        with ImageCache(folder, 3, strategy, Ageing(None, 0)) as cache:
            cache.insert(entry(3))
            assert ids[0] in ids_of(cache)
            assert ids[1] not in ids_of(cache)


def test_a_smaller_capacity_is_come_down_to(tmp_path: Path) -> None:
    with ImageCache(tmp_path, capacity=10) as cache:
        ids = [cache.insert(entry(number)) for number in range(10)]
        cache.pin(ids[0])
    with ImageCache(tmp_path, capacity=4) as cache:
        assert ids_of(cache) == [ids[0], *ids[-3:]]
        assert cache.stats().entries == 4


def test_more_pinned_than_fits_now(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with ImageCache(tmp_path, capacity=4) as cache:
        ids = [cache.insert(entry(number)) for number in range(4)]
        for entry_id in ids[:3]:
            cache.pin(entry_id)
    with caplog.at_level(logging.WARNING, logger="underpaint.cache"), ImageCache(tmp_path, capacity=2) as cache:
        assert "unpin something, or raise the capacity" in caplog.text
        assert set(ids[:3]) <= set(ids_of(cache))
        with pytest.raises(Unavailable, match="unpin something"):
            cache.insert(entry(9))
        for entry_id in ids[:3]:
            cache.unpin(entry_id)
        newest = cache.insert(entry(9))
        assert ids_of(cache) == [ids[3], newest]


# Faults -------------------------------------------------------------------------------------------------------------


def damage(cache: ImageCache, entry_id: int, step: int) -> None:
    path = cache._store.files.path(entry_id, step)
    path.write_bytes(path.read_bytes()[:-20])


def test_a_damaged_image_takes_its_entry_along_and_is_told_once(
    cache: ImageCache, caplog: pytest.LogCaptureFixture
) -> None:
    broken, whole = cache.insert(entry(1)), cache.insert(entry(2))
    damage(cache, broken, 0)
    with caplog.at_level(logging.WARNING, logger="underpaint.cache"):
        with pytest.raises(NotFound, match=r"were written; it was removed from the cache"):
            cache.fetch_image(broken)
        with pytest.raises(NotFound, match="not in the cache, or no longer"):
            cache.fetch_image(broken)
    assert len(caplog.records) == 1
    assert "it is dropped" in caplog.records[0].getMessage()
    assert ids_of(cache) == [whole]
    assert (cache.stats().corrupt, cache.stats().entries, cache.stats().units) == (1, 1, 1)


@pytest.mark.parametrize("strategy", [Strategy.FIFO, Strategy.LCBFU])
def test_damaged_latents_go_alone(tmp_path: Path, strategy: Strategy) -> None:
    with ImageCache(tmp_path, 100, strategy) as cache:
        entry_id = cache.insert(entry(1))
        damage(cache, entry_id, 10)
        with pytest.raises(NotFound, match="it was removed from the cache"):
            cache.fetch_latents(entry_id, 10)
        (match,) = cache.lookup(TEXT, latents_scope(), entry(1).text_embedding)
        assert match.steps == (5, 15)
        assert np.array_equal(cache.fetch_latents(entry_id, 15), entry(1).latents[15])


@pytest.mark.parametrize(("strategy", "left"), [(Strategy.FIFO, 1), (Strategy.LCBFU, 0)])
def test_with_the_last_latents_goes_what_was_there_for_them(tmp_path: Path, strategy: Strategy, left: int) -> None:
    """Under lcbfu that is the entry itself, whose states are all that capacity counts."""
    with ImageCache(tmp_path, 100, strategy) as cache:
        entry_id = cache.insert(entry(1))
        for step in (5, 10, 15):
            damage(cache, entry_id, step)
            with pytest.raises(NotFound):
                cache.fetch_latents(entry_id, step)
        assert cache.lookup(TEXT, latents_scope(), entry(1).text_embedding) == []
        assert len(cache.lookup(TEXT, image_scope(), entry(1).text_embedding)) == left
        assert (cache.stats().entries, cache.stats().units) == (left, left)


def test_a_failed_insert_takes_nothing_away(tmp_path: Path) -> None:
    with ImageCache(tmp_path, capacity=2) as cache:
        ids = [cache.insert(entry(number)) for number in range(2)]
        before = cache.stats()
        with sqlite3.connect(tmp_path / DATABASE, isolation_level=None) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(StoreUnavailable, match="database is locked"):
                cache.insert(entry(2))
            assert ids_of(cache) == ids
            other.execute("ROLLBACK")
        other.close()
        assert (cache.stats().entries, cache.stats().units) == (before.entries, before.units)
        third = cache.insert(entry(2))
        assert ids_of(cache) == [ids[1], third], "what was spared is next again"


def test_lookups_and_fetches_beside_inserts_and_evictions(tmp_path: Path) -> None:
    """Many threads on a small cache: whatever is found is right, or has gone; nothing else happens."""
    with ImageCache(tmp_path, capacity=20, eviction=Strategy.LRU) as cache:
        wrong: list[object] = []
        over = threading.Event()

        def read(seed: int) -> None:
            random = np.random.default_rng(seed)
            while not over.is_set():
                try:
                    for match in cache.lookup(IMAGE, image_scope(), unit(random), 3):
                        if not np.array_equal(cache.fetch_image(match.entry_id), entry(match.seed).image):
                            wrong.append(match)
                except NotFound:
                    pass
                except Exception as error:
                    wrong.append(error)

        def write(first: int) -> None:
            try:
                for number in range(first, first + 60):
                    cache.insert(entry(number, steps=()))
            except Exception as error:
                wrong.append(error)

        readers = [threading.Thread(target=read, args=[seed]) for seed in range(3)]
        writers = [threading.Thread(target=write, args=[1000 * number]) for number in range(3)]
        for thread in (*readers, *writers):
            thread.start()
        for thread in writers:
            thread.join()
        over.set()
        for thread in readers:
            thread.join()
        assert wrong == []
        assert cache.stats().entries == cache.stats().units == 20
        assert len(ids_of(cache)) == 20


def test_closing_twice_does_no_harm(tmp_path: Path) -> None:
    cache = ImageCache(tmp_path)
    cache.fetch_image(cache.insert(entry(1)))
    cache.close()
    cache.close()
    with ImageCache(tmp_path) as again:
        assert again.stats().entries == 1
