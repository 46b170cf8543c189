"""The store by itself: one opener, versions, what a full disk or a foreign lock leaves behind (nothing)."""

from __future__ import annotations

import os
import resource
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from tests.cache.making import entry
from underpaint.cache.errors import CorruptFile, StoreUnavailable
from underpaint.cache.files import ArrayFiles, Fingerprint
from underpaint.cache.reader import StoreReader
from underpaint.cache.schema import DATABASE
from underpaint.cache.store import Departure, Store, Use
from underpaint.errors import NotFound, Unavailable


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "store") as opened:
        yield opened


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for name in ("files", "drafts") for path in (folder / name).rglob("*.npy")}


@contextmanager
def disk_of(size_bytes: int) -> Iterator[None]:
    """Meanwhile no file of this process grows beyond ``size_bytes``."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("shape", [(4, 6, 3), (1,), (2, 0, 5), ()])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float16])
def test_files_are_numpys_own(tmp_path: Path, shape: tuple[int, ...], dtype: type) -> None:
    array = np.arange(np.prod(shape), dtype=np.int64).astype(dtype).reshape(shape)
    own = ArrayFiles(tmp_path)
    own.make()
    fingerprint = own.write(7, 3, array)
    for read in (np.load(own.path(7, 3)), own.read(7, 3, fingerprint)):
        assert (read.shape, read.dtype) == (array.shape, array.dtype)
        assert np.array_equal(read, array)
    np.save(own.path(7, 3), array)  # as versions before wrote them
    assert Fingerprint.of(own.path(7, 3).read_bytes()) == fingerprint


def test_what_does_not_lie_in_order_is_written_in_order(tmp_path: Path) -> None:
    array = np.arange(24, dtype=np.float32).reshape(2, 3, 4).T
    own = ArrayFiles(tmp_path)
    own.make()
    assert np.array_equal(own.read(1, 1, own.write(1, 1, array)), array)


# What is kept -------------------------------------------------------------------------------------------------------


def test_everything_comes_back_after_closing(tmp_path: Path) -> None:
    new = entry(1, generation=3, source=9, prompt="a prompt\nin two lines, ünd — 画")
    with Store(tmp_path) as store:
        (entry_id,) = store.insert_all([new], [1234.5])
    with StoreReader(tmp_path) as reader:
        stored = reader.entry(entry_id)
        assert np.array_equal(reader.image(entry_id), new.image)
        assert np.array_equal(reader.latents(entry_id, 10), new.latents[10])
        vectors = reader.vectors_of(entry_id)
    assert vectors is not None
    assert np.array_equal(vectors.image, new.image_embedding)
    assert np.array_equal(vectors.text, new.text_embedding)
    for name in ("prompt", "tenant", "variant", "seed", "generation", "source", "num_inference_steps", "metadata"):
        assert getattr(stored, name) == getattr(new, name)
    assert (stored.image_scope, stored.latents_scope) == (new.image_scope, new.latents_scope)
    assert (stored.steps, stored.created_s, stored.pinned, stored.uses) == ((5, 10, 15), 1234.5, False, 0)


def test_ids_are_never_given_out_twice(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        first, _ = store.insert(entry(1))
        second, _ = store.insert(entry(2))
        store.remove([Departure(second)])
    with Store(tmp_path) as store:
        third, _ = store.insert(entry(3))
    assert first < second < third


def test_many_come_in_together_or_not_at_all(store: Store) -> None:
    assert store.insert_all([entry(1), entry(2)], [1.0, 2.0]) == [1, 2]
    before = files(store.folder)
    huge = entry(4, image=np.zeros((200, 200, 3), np.uint8))
    with disk_of(60_000), pytest.raises(StoreUnavailable):
        store.insert_all([entry(3), huge], [3.0, 4.0])
    assert (store.entry_ids(), files(store.folder)) == ([1, 2], before)
    assert store.insert_all([entry(3)], [3.0]) == [3]


def test_arrivals_and_departures_are_one_moment(store: Store) -> None:
    first, _ = store.insert(entry(1))
    second, departed = store.insert(entry(2), [Departure(first)])
    assert [(each.entry_id, each.whole) for each in departed] == [(first, True)]
    assert store.entry_ids() == [second]
    assert files(store.folder) == {f"files/0/{second}.npy", *(f"files/0/{second}.{step}.npy" for step in (5, 10, 15))}
    assert store.totals() == (store.entry_count, store.file_bytes) == (1, store.entry(second).file_bytes)


def test_latents_can_leave_one_by_one(store: Store) -> None:
    entry_id, _ = store.insert(entry(1))
    assert store.remove([Departure(entry_id, (5, 10))]) == []
    assert store.entry(entry_id).steps == (15,)
    (departed,) = store.remove([Departure(entry_id, (15,))])
    assert not departed.whole, "the image stays, but the entry is of no use any more where latents are looked for"
    assert store.entry(entry_id).steps == ()
    assert files(store.folder) == {f"files/0/{entry_id}.npy"}
    with pytest.raises(NotFound, match=rf"entry {entry_id}: latents of step 5: not in the cache, or no longer"):
        store.latents(entry_id, 5)


def test_what_is_not_there_departs_quietly(store: Store) -> None:
    assert store.remove([Departure(77), Departure(78, (5,))]) == []
    assert not store.pin(77, True)
    store.note_uses([Use(77, None, 1, 1)])


def test_uses_add_up(store: Store) -> None:
    entry_id, _ = store.insert(entry(1), used=3)
    store.note_uses([Use(entry_id, None, 2, 10), Use(entry_id, 5, 1, 11)])
    store.note_uses([Use(entry_id, None, 1, 12)])
    assert store.entry(entry_id).uses == 4
    (holding,) = store.holdings()
    assert {past.step: (past.uses, past.used) for past in holding.past} == {
        None: (3, 12),
        5: (1, 11),
        10: (0, 3),
        15: (0, 3),
    }


def test_reading_works_beside_the_writer(store: Store) -> None:
    with StoreReader(store.folder) as reader:
        assert reader.entries() == []
        entry_id, _ = store.insert(entry(1))
        assert reader.entry(entry_id).prompt == "prompt 1"


# Who may open it ----------------------------------------------------------------------------------------------------


def test_only_one_may_write(store: Store) -> None:
    with pytest.raises(
        StoreUnavailable, match=rf"is in use by process {os.getpid()}: stop that server first"
    ) as caught:
        Store(store.folder)
    assert caught.value.reason == "held"
    assert store.insert(entry(1))[0] == 1, "the holder is not disturbed"
    store.close()
    with Store(store.folder) as heir:
        assert heir.entry_ids() == [1]


def test_there_is_nothing_to_read_where_nothing_was_written(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="there is no cache store at"):
        StoreReader(tmp_path)


@pytest.mark.parametrize(
    ("version", "whose"), [(0, "an older underpaint"), (3, "a newer underpaint"), (99, "a newer underpaint")]
)
def test_another_version_is_refused_and_left_as_it_is(tmp_path: Path, version: int, whose: str) -> None:
    with Store(tmp_path) as store:
        store.insert(entry(1))
    with sqlite3.connect(tmp_path / DATABASE) as connection:
        connection.execute(f"PRAGMA user_version = {version}")
    for opener in (Store, StoreReader):
        with pytest.raises(StoreUnavailable, match=rf"was written by {whose} \(schema {version}, this") as caught:
            opener(tmp_path)
        assert caught.value.reason == "schema"
    with sqlite3.connect(tmp_path / DATABASE) as connection:
        assert connection.execute("SELECT prompt FROM entries").fetchall() == [("prompt 1",)]


def test_a_store_of_the_first_version_is_carried_over(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        store.insert(entry(1))
    with sqlite3.connect(tmp_path / DATABASE) as connection:
        connection.executescript("ALTER TABLE entries DROP COLUMN autoencoder; PRAGMA user_version = 1")
    with pytest.raises(StoreUnavailable, match=r"was written by an older underpaint \(schema 1, this"):
        StoreReader(tmp_path)  # which changes nothing
    with Store(tmp_path) as store:
        store.insert(entry(2, latents={50: np.ones((4, 2, 2), np.float32)}, autoencoder="vae"))
        assert [each.prompt for each in store.entries()] == ["prompt 2", "prompt 1"]
        assert [store.finished(entry_id, "vae") for entry_id in (1, 2)] == [None, 50]
        assert store.finished(2, "another") is None
        np.testing.assert_array_equal(store.image(1), entry(1).image)


def test_a_database_of_somebody_else_is_refused(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / DATABASE) as connection:
        connection.execute("CREATE TABLE bookmarks (url)")
    with pytest.raises(StoreUnavailable, match="is not a cache of underpaint"):
        Store(tmp_path)


def test_what_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / DATABASE).write_bytes(b"not a database, but long enough to be taken for one" * 100)
    with pytest.raises(StoreUnavailable, match="file is not a database; move it away") as caught:
        Store(tmp_path)
    assert caught.value.reason == "corrupt"


def test_a_folder_that_may_not_be_written(tmp_path: Path) -> None:
    """As a user who is not root, since root may write everywhere."""
    code = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from underpaint.cache.store import Store\n"
        "from underpaint.cache.errors import StoreUnavailable\n"
        "if os.getuid() == 0:\n"
        "    os.setgid(65534); os.setuid(65534)\n"
        "try:\n"
        "    Store(Path('/usr/underpaint-test') if sys.argv[1] == 'new' else Path('/usr'))\n"
        "except StoreUnavailable as error:\n"
        "    print(error.reason, error)\n"
    )
    for which in ("new", "there"):
        done = subprocess.run([sys.executable, "-c", code, which], capture_output=True, text=True, timeout=60)
        assert done.stdout.startswith("read_only cannot "), done.stderr
        assert "make it writable for this user, or name another with --store" in done.stdout


def test_a_file_in_the_place_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreUnavailable, match="cannot write in the cache store"):
        Store(tmp_path / "file")


# Faults -------------------------------------------------------------------------------------------------------------


def test_a_lock_of_another_program_passes_or_is_said(store: Store) -> None:
    store.insert(entry(1))
    with sqlite3.connect(store.folder / DATABASE, isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailable, match="database is locked; another program holds its database") as caught:
            store.insert(entry(2))
        assert caught.value.reason == "locked"
        assert store.entry(1).prompt == "prompt 1", "reading goes on"
        other.execute("ROLLBACK")
    other.close()
    assert files(store.folder) == {"files/0/1.npy", *(f"files/0/1.{step}.npy" for step in (5, 10, 15))}
    assert store.insert(entry(2))[0] == 2


@pytest.mark.parametrize("size_bytes", [200, 60_000], ids=["files", "database"])
def test_a_full_disk_changes_nothing(store: Store, size_bytes: int) -> None:
    """200 bytes hold the first file but not the second (entry 2's image is larger); 60,000 hold files, not rows."""
    first, _ = store.insert(entry(1))
    before, totals = files(store.folder), store.totals()
    large = entry(2, image=np.zeros((100, 100, 3), np.uint8), prompt="x" * 100_000)
    with disk_of(size_bytes), pytest.raises(StoreUnavailable) as caught:
        store.insert(large, [Departure(first)])
    assert caught.value.reason in ("full", "io")
    assert files(store.folder) == before
    assert store.totals() == (store.entry_count, store.file_bytes) == totals
    assert np.array_equal(store.image(first), entry(1).image)
    assert store.insert(large)[0] == 2
    assert store.check_database() == []


def test_damage_is_noticed(store: Store) -> None:
    entry_id, _ = store.insert(entry(1))
    image, latents = store.files.path(entry_id, 0), store.files.path(entry_id, 10)
    content = image.read_bytes()
    image.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(CorruptFile, match="is not what was written: its checksum differs"):
        store.image(entry_id)
    latents.write_bytes(latents.read_bytes()[:-40])
    with pytest.raises(CorruptFile, match=r"has \d+ bytes, \d+ were written"):
        store.latents(entry_id, 10)
    latents.unlink()
    with pytest.raises(CorruptFile, match="is missing"):
        store.latents(entry_id, 10)
    assert store.latents(entry_id, 5).shape == (4, 2, 2)


def test_half_written_files_are_swept_away_at_the_start(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        (store.files.drafts / "7.npy").write_bytes(b"half")
    with Store(tmp_path):
        assert files(tmp_path) == set()


def test_errors_of_the_disk_are_told_as_unavailable() -> None:
    assert issubclass(StoreUnavailable, Unavailable)
