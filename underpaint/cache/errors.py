"""What goes wrong with a store, sorted by what an operator can do about it."""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from underpaint.errors import Unavailable

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)
_BY_SQLITE_CODE = {
    sqlite3.SQLITE_FULL: "full",
    sqlite3.SQLITE_BUSY: "locked",
    sqlite3.SQLITE_LOCKED: "locked",
    sqlite3.SQLITE_READONLY: "read_only",
    sqlite3.SQLITE_CANTOPEN: "read_only",
    sqlite3.SQLITE_PERM: "read_only",
    sqlite3.SQLITE_CORRUPT: "corrupt",
    sqlite3.SQLITE_NOTADB: "corrupt",
}
_REMEDIES = {
    "full": "free some space there, or lower the capacity",
    "locked": "another program holds its database; end that",
    "read_only": "make it writable for this user, or name another with --store",
    "corrupt": "move it away; the cache begins anew",
    "io": "see whether its disk is well",
}


class StoreUnavailable(Unavailable):
    """A store cannot be used at present. ``reason`` is one word, for metrics: full, locked, read_only, corrupt, io,
    held (by another server) or schema (of another version)."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class CorruptFile(Exception):
    """A file of the store is missing, cut short, or not what was written."""


@contextmanager
def explained(folder: Path, doing: str) -> Iterator[None]:
    """Turn what disk and SQLite say while ``doing`` something into StoreUnavailable."""
    try:
        yield
    except (OSError, sqlite3.Error) as error:
        reason = _reason(error)
        message = f"cannot {doing} in the cache store {folder}: {error}; {_REMEDIES[reason]}"
        raise StoreUnavailable(reason, message) from error


def _reason(error: OSError | sqlite3.Error) -> str:
    if isinstance(error, OSError):
        return "full" if error.errno in _FULL else "read_only" if error.errno in _READ_ONLY else "io"
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
    return _BY_SQLITE_CODE.get(code & 0xFF, "io")  # the low byte is the primary code
