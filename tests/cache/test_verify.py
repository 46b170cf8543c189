"""What ``verify`` finds, and that nothing is wrong any more once it has mended it."""

from __future__ import annotations

import os
import re
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.cache.making import entry
from underpaint.cache.cache import ImageCache
from underpaint.cache.reader import StoreReader
from underpaint.cache.schema import DATABASE
from underpaint.cache.store import Store
from underpaint.cache.verify import check, mend

ENTRIES = 4


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with Store(tmp_path) as store:
        store.insert_all([entry(number) for number in range(ENTRIES)], [0.0] * ENTRIES)
    return tmp_path


@pytest.fixture
def store(folder: Path) -> Iterator[Store]:
    with Store(folder) as opened:
        yield opened


def execute(folder: Path, statement: str) -> None:
    with sqlite3.connect(folder / DATABASE) as connection:
        connection.execute(statement)
    connection.close()


def findings(store: StoreReader) -> list[tuple[str, str]]:
    return [(each.kind, each.what) for each in check(store)]


def test_all_is_well(store: Store) -> None:
    told: list[tuple[int, int]] = []
    assert check(store, lambda done, of: told.append((done, of))) == []
    assert told == [(number, 16) for number in range(1, 17)]


DAMAGE = {
    "missing image": ("file", "entry 2: .*2.npy is missing", {1, 3, 4}),
    "cut image": ("file", "entry 2: .*bytes, .* were written", {1, 3, 4}),
    "altered image": ("file", "entry 2: .*its checksum differs", {1, 3, 4}),
    "cut latents": ("file", r"entry 2: .*2\.10\.npy has", {1, 2, 3, 4}),
    "no image row": ("file", "entry 2 has no image", {1, 3, 4}),
    "no vectors": ("vector", "entry 2 has no vectors, so nothing finds it", {1, 3, 4}),
    "short vector": ("vector", "entry 2: its vectors are not of length 1 in 16 dimensions", {1, 3, 4}),
    "zero vector": ("vector", "entry 2: its vectors are not of length 1", {1, 3, 4}),
    "row of nobody": ("database", "files .* belongs to no entry", {1, 2, 3, 4}),
    "stray file": ("stray", "files/0/77.npy belongs to no entry", {1, 2, 3, 4}),
    "foreign file": ("stray", "files/0/notes.txt belongs to no entry", {1, 2, 3, 4}),
}


def do_damage(what: str, folder: Path) -> None:
    image, latents = folder / "files/0/2.npy", folder / "files/0/2.10.npy"
    match what:
        case "missing image":
            image.unlink()
        case "cut image":
            image.write_bytes(image.read_bytes()[:-3])
        case "altered image":
            image.write_bytes(image.read_bytes()[:-3] + b"odd")
        case "cut latents":
            latents.write_bytes(latents.read_bytes()[:-3])
        case "no image row":
            execute(folder, "DELETE FROM files WHERE entry_id = 2 AND step = 0")
        case "no vectors":
            execute(folder, "DELETE FROM vectors WHERE entry_id = 2")
        case "short vector":
            execute(folder, "UPDATE vectors SET text = substr(text, 1, 8) WHERE entry_id = 2")
        case "zero vector":
            execute(folder, "UPDATE vectors SET image = zeroblob(64) WHERE entry_id = 2")
        case "row of nobody":
            execute(folder, "INSERT INTO files VALUES (99, 5, 1, 1, 0, 0)")
        case "stray file":
            (folder / "files/0/77.npy").write_bytes(b"left behind")
        case "foreign file":
            (folder / "files/0/notes.txt").write_text("hello")


@pytest.mark.parametrize("what", DAMAGE)
def test_damage_is_found_and_mended(folder: Path, what: str) -> None:
    kind, message, left = DAMAGE[what]
    do_damage(what, folder)
    with Store(folder) as store:
        found = check(store)
        assert any(each.kind == kind and re.search(message, each.what) for each in found)
        mend(store, found)
        assert check(store) == []
        assert set(store.entry_ids()) == left
    with ImageCache(folder, capacity=10) as cache:
        for entry_id in left:
            assert np.array_equal(cache.fetch_image(entry_id), entry(entry_id - 1).image)


def test_a_reader_leaves_young_files_alone(folder: Path) -> None:
    """A server writes files before their rows; only it knows which are about to be mentioned."""
    young, old = folder / "files/0/77.npy", folder / "files/0/78.npy"
    for path in (young, old):
        path.write_bytes(b"")
    os.utime(old, (time.time() - 3600, time.time() - 3600))
    with StoreReader(folder) as reader:
        assert findings(reader) == [("stray", f"{old} belongs to no entry")]


def test_a_server_on_a_damaged_store_serves_what_is_whole(folder: Path) -> None:
    for what in ("no vectors", "missing image", "row of nobody", "short vector"):
        do_damage(what, folder)
    with ImageCache(folder, capacity=10) as cache:
        whole = entry(0)
        matches = cache.lookup("text", whole.image_scope, whole.text_embedding, 10)
        assert {match.entry_id for match in matches} == {1, 3, 4}
