"""The truth: what is in the cache, on disk. SQLite for facts and vectors, files for images and latents.

The order of writing keeps every moment consistent, so that kill -9 at any of them loses nothing that was acknowledged:
files are whole before the transaction that mentions them, and go after the one that forgets them. What such a moment
leaves behind are files without a row, which ``verify`` removes. Nothing is fsynced: after a power cut the last seconds
may be missing, and a file that is there in name only is known by its checksum.
"""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from underpaint.cache.entries import NewEntry
from underpaint.cache.errors import explained
from underpaint.cache.files import IMAGE_STEP, ArrayFiles, Fingerprint
from underpaint.cache.lock import StoreLock
from underpaint.cache.reader import StoreReader
from underpaint.cache.schema import DATABASE, connect, prepare


@dataclass(frozen=True)
class Departure:
    """What is to leave: an entry, or only its latents of some steps."""

    entry_id: int
    steps: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Departed:
    """What has left, as far as the index must know. ``whole``: the entry; otherwise the last of its latents."""

    entry_id: int
    generation: int
    image_scope: str
    latents_scope: str | None
    whole: bool


@dataclass(frozen=True)
class Use:
    """Uses of one file: the image (step None) or the latents of a step; ``used`` is the evictor's event."""

    entry_id: int
    step: int | None
    count: int
    used: int


class Store(StoreReader):
    """A store that may be written. Only one at a time is open on a folder, of all processes. Any thread may call.

    Methods raise StoreUnavailable where disk or database refuse; nothing has changed then. ``next_id`` is what the
    next entry will be called, and those after it one more each.
    """

    def __init__(self, folder: Path) -> None:
        """Open the store, or begin one. Raises StoreUnavailable."""
        with explained(folder, "write"):
            folder.mkdir(parents=True, exist_ok=True)
        self._lock_file = StoreLock(folder)
        try:
            with explained(folder, "write"):
                ArrayFiles(folder).make()
                self._writing = connect(folder / DATABASE, writable=True)
                prepare(self._writing, folder)
            super().__init__(folder)
        except BaseException:
            self._lock_file.close()
            raise
        self._writing_lock = threading.Lock()
        (last,) = self._rows("SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'entries'")[0]
        self.next_id = last + 1
        self.entry_count, self.file_bytes = self.totals()

    def close(self) -> None:
        super().close()
        with self._writing_lock, suppress(sqlite3.Error):
            self._writing.close()
        self._lock_file.close()

    def insert(
        self, entry: NewEntry, departures: Sequence[Departure] = (), used: int = 0
    ) -> tuple[int, list[Departed]]:
        """Put an entry in, and in the same moment take others out; returns its id when both are safe.

        ``used``: the evictor's event that this is.
        """
        (entry_id,), departed = self.exchange([entry], departures, used)
        return entry_id, departed

    def exchange(
        self, entries: Sequence[NewEntry], departures: Sequence[Departure], used: int
    ) -> tuple[list[int], list[Departed]]:
        """The same for several entries: all of it, in one transaction, or nothing; their ids, in order."""
        return self._insert(entries, [time.time()] * len(entries), departures, used)

    def insert_all(self, entries: Sequence[NewEntry], created_s: Sequence[float]) -> list[int]:
        """Put many entries in at once, all or none; their ids, in order. Faster than one by one."""
        return self._insert(entries, created_s, (), 0)[0]

    def remove(self, departures: Sequence[Departure]) -> list[Departed]:
        """Take entries or some of their latents out, all in one moment; what is not there is passed over."""
        with self._writing_lock, explained(self.folder, "write"):
            with self._transaction():
                departed, forgotten = self._forget(departures)
            self._sweep(departed, forgotten)
            return departed

    def pin(self, entry_id: int, pinned: bool) -> bool:
        """Mark an entry as pinned, or not; whether it is there."""
        with self._writing_lock, explained(self.folder, "write"):
            changed = self._writing.execute(
                "UPDATE entries SET pinned = ? WHERE entry_id = ?", (int(pinned), entry_id)
            ).rowcount
        return changed == 1

    def note_uses(self, uses: Sequence[Use]) -> None:
        """Add to what is known of the use of files."""
        rows = [(use.count, use.used, use.entry_id, use.step or IMAGE_STEP) for use in uses]
        with self._writing_lock, explained(self.folder, "write"), self._transaction():
            self._writing.executemany(
                "UPDATE files SET uses = uses + ?, used = ? WHERE entry_id = ? AND step = ?", rows
            )

    def drop_strays(self) -> None:
        """Remove rows that belong to no entry (see ``verify``)."""
        with self._writing_lock, explained(self.folder, "write"), self._transaction():
            for table in ("vectors", "files"):
                self._writing.execute(f"DELETE FROM {table} WHERE entry_id NOT IN (SELECT entry_id FROM entries)")

    def _insert(
        self, entries: Sequence[NewEntry], created_s: Sequence[float], departures: Sequence[Departure], used: int
    ) -> tuple[list[int], list[Departed]]:
        with self._writing_lock, explained(self.folder, "write"):
            entry_ids = list(range(self.next_id, self.next_id + len(entries)))
            written: dict[int, dict[int, Fingerprint]] = {}
            try:
                for entry_id, entry in zip(entry_ids, entries, strict=True):
                    self._write_files(entry_id, entry, written.setdefault(entry_id, {}))
                with self._transaction():
                    departed, forgotten = self._forget(departures)
                    for entry_id, entry, created in zip(entry_ids, entries, created_s, strict=True):
                        self._insert_rows(entry_id, entry, written[entry_id], used, created)
            except BaseException:
                for entry_id, steps in written.items():
                    for step in steps:
                        self.files.remove(entry_id, step)
                raise
            self.next_id += len(entries)
            self.entry_count += len(entries)
            self.file_bytes += sum(each.size_bytes for steps in written.values() for each in steps.values())
            self._sweep(departed, forgotten)
            return entry_ids, departed

    def _write_files(self, entry_id: int, entry: NewEntry, written: dict[int, Fingerprint]) -> None:
        """Write image and latents; what is written is entered into ``written`` as it goes."""
        for step, array in {IMAGE_STEP: entry.image, **entry.latents}.items():
            written[step] = self.files.write(entry_id, step, array)

    def _insert_rows(
        self, entry_id: int, entry: NewEntry, written: dict[int, Fingerprint], used: int, created_s: float
    ) -> None:
        self._writing.execute(
            "INSERT INTO entries VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 0, ?, ?)",
            (
                entry_id,
                entry.tenant,
                entry.image_scope,
                entry.latents_scope,
                entry.prompt,
                entry.variant,
                entry.seed,
                entry.num_inference_steps,
                entry.generation,
                entry.source,
                created_s,
                json.dumps(entry.metadata, ensure_ascii=False),
                entry.autoencoder,
            ),
        )
        vectors = (entry.image_embedding.tobytes(), entry.text_embedding.tobytes())
        self._writing.execute("INSERT INTO vectors VALUES (?, ?, ?)", (entry_id, *vectors))
        rows = [(entry_id, step, each.size_bytes, each.crc32, used) for step, each in written.items()]
        self._writing.executemany(
            "INSERT INTO files (entry_id, step, size_bytes, crc32, used) VALUES (?, ?, ?, ?, ?)", rows
        )

    def _forget(self, departures: Sequence[Departure]) -> tuple[list[Departed], list[tuple[int, int, int]]]:
        """Delete rows, inside a transaction; what left, and the files that go with it (entry, step, bytes)."""
        departed: list[Departed] = []
        forgotten: list[tuple[int, int, int]] = []
        for departure in departures:
            query = "SELECT generation, image_scope, latents_scope FROM entries WHERE entry_id = ?"
            row: tuple[int, str, str | None] | None = self._writing.execute(query, (departure.entry_id,)).fetchone()
            if row is None:
                continue
            forgotten += self._forget_files(departure)
            whole = departure.steps is None
            if whole:
                self._writing.execute("DELETE FROM entries WHERE entry_id = ?", (departure.entry_id,))
            if whole or not self._has_latents(departure.entry_id):
                departed.append(Departed(departure.entry_id, *row, whole=whole))
        return departed, forgotten

    def _forget_files(self, departure: Departure) -> list[tuple[int, int, int]]:
        rows = self._writing.execute(
            "SELECT entry_id, step, size_bytes FROM files WHERE entry_id = ?", (departure.entry_id,)
        ).fetchall()
        leaving = [row for row in rows if departure.steps is None or row[1] in departure.steps]
        keys = [(entry_id, step) for entry_id, step, _ in leaving]
        self._writing.executemany("DELETE FROM files WHERE entry_id = ? AND step = ?", keys)
        return leaving

    def _has_latents(self, entry_id: int) -> bool:
        query = "SELECT 1 FROM files WHERE entry_id = ? AND step > 0 LIMIT 1"
        return self._writing.execute(query, (entry_id,)).fetchone() is not None

    def _sweep(self, departed: Sequence[Departed], forgotten: Sequence[tuple[int, int, int]]) -> None:
        """Once the rows have gone: the files, and the sums."""
        self.entry_count -= sum(each.whole for each in departed)
        for entry_id, step, size_bytes in forgotten:
            self.file_bytes -= size_bytes
            self.files.remove(entry_id, step)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._writing.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._writing.execute("COMMIT")
        except BaseException:
            with suppress(sqlite3.Error):  # a full disk may have ended it already
                self._writing.execute("ROLLBACK")
            raise
