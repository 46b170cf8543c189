"""The tables of a store, and which version of them a database has."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from underpaint.cache.errors import StoreUnavailable

VERSION = 2
DATABASE = "cache.sqlite"

_APPLICATION_ID = 0x556E6470  # "Undp"
_PAGE_BYTES = 16384  # some rows of vectors to a page, where the usual 4096 would not hold one

# ``files.step`` is 0 for the image; ``files.used`` counts the evictor's events. Entry ids are never given out twice
# (AUTOINCREMENT), so an id that a caller remembers is the same entry or none.
_TABLES = """
CREATE TABLE entries (
    entry_id INTEGER PRIMARY KEY AUTOINCREMENT,
    tenant TEXT NOT NULL,
    image_scope TEXT NOT NULL,
    latents_scope TEXT,
    prompt TEXT NOT NULL,
    variant TEXT NOT NULL,
    seed INTEGER NOT NULL,
    num_inference_steps INTEGER NOT NULL,
    generation INTEGER NOT NULL,
    source INTEGER,
    created_s REAL NOT NULL,
    pinned INTEGER NOT NULL DEFAULT 0,
    metadata TEXT NOT NULL,
    autoencoder TEXT NOT NULL DEFAULT ''
);
CREATE TABLE vectors (
    entry_id INTEGER PRIMARY KEY REFERENCES entries ON DELETE CASCADE,
    image BLOB NOT NULL,
    text BLOB NOT NULL
);
CREATE TABLE files (
    entry_id INTEGER NOT NULL REFERENCES entries ON DELETE CASCADE,
    step INTEGER NOT NULL,
    size_bytes INTEGER NOT NULL,
    crc32 INTEGER NOT NULL,
    uses INTEGER NOT NULL DEFAULT 0,
    used INTEGER NOT NULL,
    PRIMARY KEY (entry_id, step)
) WITHOUT ROWID;
"""

# By version, what makes the next one of it.
_STEPS = {1: "ALTER TABLE entries ADD COLUMN autoencoder TEXT NOT NULL DEFAULT '';"}


def connect(path: Path, writable: bool) -> sqlite3.Connection:
    """A connection that commits by itself unless told to BEGIN, and waits two seconds for others."""
    mode = "rwc" if writable else "ro"
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode={mode}", uri=True, timeout=2.0, isolation_level=None, check_same_thread=False
    )
    connection.execute("PRAGMA mmap_size = 2147418112")  # vectors are read in place
    return connection


def prepare(connection: sqlite3.Connection, folder: Path) -> None:
    """Make the tables where there are none, and carry those of older versions over.

    Raises StoreUnavailable, where that cannot be done.
    """
    connection.execute(f"PRAGMA page_size = {_PAGE_BYTES}")
    # A commit survives the end of the process at once; a power cut may take the last ones, but leaves no broken state.
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute("PRAGMA foreign_keys = ON")
    if not connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone():
        marks = f"PRAGMA application_id = {_APPLICATION_ID}; PRAGMA user_version = {VERSION};"
        connection.executescript(f"BEGIN; {_TABLES} {marks} COMMIT;")
    elif _is_ours(connection):
        _carry_over(connection)
    check_version(connection, folder)


def _carry_over(connection: sqlite3.Connection) -> None:
    """Version by version, each step a transaction."""
    while (version := _version(connection)) in _STEPS:
        connection.executescript(f"BEGIN IMMEDIATE; {_STEPS[version]} PRAGMA user_version = {version + 1}; COMMIT;")


def _is_ours(connection: sqlite3.Connection) -> bool:
    return bool(connection.execute("PRAGMA application_id").fetchone()[0] == _APPLICATION_ID)


def _version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def check_version(connection: sqlite3.Connection, folder: Path) -> None:
    """Raises StoreUnavailable, where the database is not ours, or of another version than this underpaint's."""
    version = _version(connection)
    if not _is_ours(connection):
        raise StoreUnavailable("schema", f"{folder / DATABASE} is not a cache of underpaint: name another --store")
    if version != VERSION:
        whose = "newer" if version > VERSION else "older"
        raise StoreUnavailable(
            "schema",
            f"the cache store {folder} was written by {_article(whose)} {whose} underpaint (schema {version}, this one "
            f"reads {VERSION}): carry it over with that one's 'underpaint cache export' and this one's 'import', or "
            "name another --store",
        )


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"
