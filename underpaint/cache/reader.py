"""Reading a store, beside the server that writes it if need be."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from underpaint.cache.entries import IMAGE, Match, StoredEntry
from underpaint.cache.errors import CorruptFile, explained
from underpaint.cache.files import IMAGE_STEP, ArrayFiles, Fingerprint
from underpaint.cache.schema import DATABASE, check_version, connect
from underpaint.cache.units import Past
from underpaint.errors import NotFound

_ROWS_AT_A_TIME = 4096
_ENTRY = """
SELECT entry_id, prompt, tenant, variant, seed, image_scope, latents_scope, num_inference_steps, generation, source,
       created_s, pinned, metadata, autoencoder,
       (SELECT group_concat(step) FROM files f WHERE f.entry_id = e.entry_id AND step > 0) AS steps,
       (SELECT coalesce(sum(uses), 0) FROM files f WHERE f.entry_id = e.entry_id) AS uses,
       (SELECT coalesce(sum(size_bytes), 0) FROM files f WHERE f.entry_id = e.entry_id) AS file_bytes
FROM entries e
"""
_MATCHES = """
SELECT entry_id, prompt, variant, seed, generation, num_inference_steps,
       (SELECT group_concat(step) FROM files f WHERE f.entry_id = e.entry_id AND step > 0) AS steps
FROM entries e WHERE entry_id IN ({ids}) AND (image_scope = ? OR latents_scope = ?)
"""


@dataclass(frozen=True, eq=False)
class Vectors:
    """The vectors of one entry, and where the index keeps them. Both float32 [D]."""

    entry_id: int
    generation: int
    image_scope: str
    latents_scope: str | None
    image: np.ndarray
    text: np.ndarray

    def of(self, space: str) -> np.ndarray:
        """The vector that is compared in a space."""
        return self.image if space == IMAGE else self.text


@dataclass(frozen=True)
class Holding:
    """An entry as the evictor sees it."""

    entry_id: int
    num_inference_steps: int
    pinned: bool
    past: tuple[Past, ...]

    @property
    def steps(self) -> tuple[int, ...]:
        return tuple(sorted(file.step for file in self.past if file.step is not None))


class StoreReader:
    """Everything that can be asked of a store. Any thread may ask.

    Methods raise StoreUnavailable where disk or database do not answer.
    """

    def __init__(self, folder: Path) -> None:
        """Raises NotFound, where there is no store, and StoreUnavailable, where it is of another version."""
        self.folder = folder
        self.files = ArrayFiles(folder)
        if not (folder / DATABASE).is_file():
            raise NotFound(f"there is no cache store at {folder}: a server makes it, or name another with --store")
        with explained(folder, "read"):
            self._reading = connect(folder / DATABASE, writable=False)
            self._reading.row_factory = sqlite3.Row
            check_version(self._reading, folder)
        self._reading_lock = threading.Lock()

    def close(self) -> None:
        with self._reading_lock:
            self._reading.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def image(self, entry_id: int) -> np.ndarray:
        """uint8 [H, W, 3]. Raises NotFound where it has gone, CorruptFile where it is damaged."""
        return self._array(entry_id, IMAGE_STEP, f"entry {entry_id}")

    def latents(self, entry_id: int, step: int) -> np.ndarray:
        """float32 [C, h, w] after ``step`` steps. Raises NotFound where it has gone, CorruptFile where damaged."""
        return self._array(entry_id, step, f"entry {entry_id}: latents of step {step}")

    def finished(self, entry_id: int, autoencoder: str) -> int | None:
        """The step of an entry's finished latents, if it has any of this autoencoder."""
        query = """
            SELECT step FROM entries JOIN files USING (entry_id)
            WHERE entry_id = ? AND autoencoder = ? AND step = num_inference_steps
        """
        return next((row["step"] for row in self._rows(query, (entry_id, autoencoder))), None)

    def similarities(self, entry_ids: Sequence[int], space: str, embedding: np.ndarray) -> dict[int, float]:
        """The cosine of each of these entries that is there to ``embedding``, float32 [D], in ``space``."""
        query = f"SELECT entry_id, {space} FROM vectors WHERE entry_id IN ({_places(entry_ids)})"
        rows = [row for row in self._rows(query, entry_ids) if len(row[1]) == embedding.nbytes]
        vectors = np.frombuffer(b"".join(row[1] for row in rows), np.float32).reshape(-1, len(embedding))
        return dict(zip((row[0] for row in rows), (vectors @ embedding).tolist(), strict=True))

    def matches(self, similarities: Mapping[int, float], scope: str) -> list[Match]:
        """Those of these entries that are there and in ``scope``, most similar first, then the oldest."""
        query = _MATCHES.format(ids=_places(similarities))
        found = [_match(row, similarities) for row in self._rows(query, (*similarities, scope, scope))]
        return sorted(found, key=lambda match: (-match.similarity, match.entry_id))

    def entry(self, entry_id: int) -> StoredEntry:
        """Raises NotFound."""
        for row in self._rows(f"{_ENTRY} WHERE entry_id = ?", (entry_id,)):
            return _stored(row)
        raise NotFound(f"entry {entry_id} is not in the cache store {self.folder}, or no longer")

    def entries(self, tenant: str | None = None, limit: int = -1) -> list[StoredEntry]:
        """The newest ``limit`` entries (-1: all), newest first."""
        where, values = ("WHERE tenant = ?", (tenant,)) if tenant is not None else ("", ())
        query = f"{_ENTRY} {where} ORDER BY entry_id DESC LIMIT ?"
        return [_stored(row) for row in self._rows(query, (*values, limit))]

    def entry_ids(self, tenant: str | None = None, scope: str | None = None) -> list[int]:
        """All ids, oldest first; those of a tenant, of a scope, or of both."""
        query = """
            SELECT entry_id FROM entries WHERE (?1 IS NULL OR tenant = ?1)
            AND (?2 IS NULL OR image_scope = ?2 OR latents_scope = ?2) ORDER BY entry_id
        """
        return [row["entry_id"] for row in self._rows(query, (tenant, scope))]

    def vectors(self) -> Iterator[list[Vectors]]:
        """All vectors, some thousands at a time. ``latents_scope`` is None where no latents are left."""
        query = """
            SELECT entry_id, generation, image_scope, image, text,
                   CASE WHEN EXISTS (SELECT 1 FROM files f WHERE f.entry_id = e.entry_id AND step > 0)
                   THEN latents_scope END AS latents_scope
            FROM entries e JOIN vectors USING (entry_id) WHERE entry_id > ? ORDER BY entry_id LIMIT ?
        """
        last = 0
        while batch := [_vectors(row) for row in self._rows(query, (last, _ROWS_AT_A_TIME))]:
            yield batch
            last = batch[-1].entry_id

    def vectors_of(self, entry_id: int) -> Vectors | None:
        """The vectors of one entry; None where it has none."""
        query = "SELECT * FROM entries JOIN vectors USING (entry_id) WHERE entry_id = ?"
        return next((_vectors(row) for row in self._rows(query, (entry_id,))), None)

    def holdings(self) -> Iterator[Holding]:
        """Every entry, oldest first, with what is known of the use of its files."""
        query = """
            SELECT entry_id, num_inference_steps, pinned, json_group_array(json_array(step, uses, used)) AS files
            FROM entries JOIN files USING (entry_id) WHERE entry_id > ? GROUP BY entry_id ORDER BY entry_id LIMIT ?
        """
        last = 0
        while batch := [_holding(row) for row in self._rows(query, (last, _ROWS_AT_A_TIME))]:
            yield from batch
            last = batch[-1].entry_id

    def fingerprints(self) -> dict[tuple[int, int], Fingerprint]:
        """What every file should be, by entry and step (0: the image)."""
        rows = self._rows("SELECT entry_id, step, size_bytes, crc32 FROM files")
        return {(row["entry_id"], row["step"]): Fingerprint(row["size_bytes"], row["crc32"]) for row in rows}

    def totals(self) -> tuple[int, int]:
        """Entries, and bytes of their files."""
        query = "SELECT (SELECT count(*) FROM entries), (SELECT coalesce(sum(size_bytes), 0) FROM files)"
        entries, file_bytes = self._rows(query)[0]
        return entries, file_bytes

    def census(self) -> list[Mapping[str, Any]]:
        """By tenant: entries, pinned ones, captured latents, bytes, uses, and when the first and last came (s)."""
        query = """
            SELECT tenant, count(*) AS entries, sum(pinned) AS pinned, sum(latents) AS latents, sum(bytes) AS bytes,
                   sum(uses) AS uses, min(created_s) AS oldest_s, max(created_s) AS newest_s
            FROM entries JOIN (
                SELECT entry_id, sum(step > 0) AS latents, sum(size_bytes) AS bytes, sum(uses) AS uses
                FROM files GROUP BY entry_id) USING (entry_id)
            GROUP BY tenant ORDER BY entries DESC
        """
        return [dict(row) for row in self._rows(query)]

    def check_database(self) -> list[str]:
        """What SQLite finds wrong with its own file; empty where all is well."""
        found = [row[0] for row in self._rows("PRAGMA integrity_check") if row[0] != "ok"]
        return found + [f"{row[0]} {row[1]} belongs to no entry" for row in self._rows("PRAGMA foreign_key_check")]

    def _array(self, entry_id: int, step: int, what: str) -> np.ndarray:
        expected = self._fingerprint(entry_id, step)
        try:
            if expected is not None:
                with explained(self.folder, "read"):
                    return self.files.read(entry_id, step, expected)
        except CorruptFile:
            if self._fingerprint(entry_id, step) == expected:
                raise
        raise NotFound(f"{what}: not in the cache, or no longer")  # it went while it was being read

    def _fingerprint(self, entry_id: int, step: int) -> Fingerprint | None:
        query = "SELECT size_bytes, crc32 FROM files WHERE entry_id = ? AND step = ?"
        return next((Fingerprint(*row) for row in self._rows(query, (entry_id, step))), None)

    def _rows(self, query: str, values: Iterable[Any] = ()) -> list[sqlite3.Row]:
        with explained(self.folder, "read"), self._reading_lock:
            return self._reading.execute(query, tuple(values)).fetchall()


def _places(values: Collection[int]) -> str:
    return ",".join("?" * len(values))


def _match(row: sqlite3.Row, similarities: Mapping[int, float]) -> Match:
    return Match(
        entry_id=row["entry_id"],
        similarity=similarities[row["entry_id"]],
        prompt=row["prompt"],
        variant=row["variant"],
        seed=row["seed"],
        generation=row["generation"],
        steps=_steps(row),
        num_inference_steps=row["num_inference_steps"],
    )


def _stored(row: sqlite3.Row) -> StoredEntry:
    fields = {name: row[name] for name in row.keys()}  # noqa: SIM118 (a Row iterates over its values)
    fields |= {"pinned": bool(row["pinned"]), "steps": _steps(row), "metadata": json.loads(row["metadata"])}
    return StoredEntry(**fields)


def _steps(row: sqlite3.Row) -> tuple[int, ...]:
    return tuple(sorted(map(int, row["steps"].split(",")))) if row["steps"] else ()


def _vectors(row: sqlite3.Row) -> Vectors:
    return Vectors(
        entry_id=row["entry_id"],
        generation=row["generation"],
        image_scope=row["image_scope"],
        latents_scope=row["latents_scope"],
        image=_vector(row["image"]),
        text=_vector(row["text"]),
    )


def _vector(blob: bytes) -> np.ndarray:
    return np.frombuffer(blob[: len(blob) // 4 * 4], np.float32)


def _holding(row: sqlite3.Row) -> Holding:
    past = (Past(step or None, uses, used) for step, uses, used in json.loads(row["files"]))
    return Holding(row["entry_id"], row["num_inference_steps"], bool(row["pinned"]), tuple(past))
