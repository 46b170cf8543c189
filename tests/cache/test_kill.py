"""Kill -9 in the middle of inserts: nothing that was acknowledged is lost."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from underpaint.bench.cache.kills import is_whole, kill_rounds, made_entry
from underpaint.cache.cache import ImageCache


def test_nothing_that_was_acknowledged_is_lost(tmp_path: Path) -> None:
    kills = kill_rounds(tmp_path, rounds=5, random=np.random.default_rng(0))
    assert kills.acknowledged >= 5 * 3
    assert (kills.lost, kills.faults) == (0, 0)


def test_the_check_itself_finds_what_is_lost(tmp_path: Path) -> None:
    with ImageCache(tmp_path) as cache:
        ids = [cache.insert(made_entry(number)) for number in range(3)]
        assert is_whole(cache, ids[0], 0)
        assert not is_whole(cache, ids[0], 1), "another entry"
        assert not is_whole(cache, 99, 2), "none"
        latents = cache._store.files.path(ids[2], 25)
        latents.write_bytes(latents.read_bytes()[:-1])
        assert not is_whole(cache, ids[2], 2), "a part of it"
