"""One server per store."""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from pathlib import Path

from underpaint.cache.errors import StoreUnavailable, explained

_NAME = "lock"


class StoreLock:
    """Held from construction to ``close``, or to the end of the process, however that comes: flock(2)."""

    def __init__(self, folder: Path) -> None:
        """Raises StoreUnavailable, where another process, or another opener in this one, holds it."""
        with explained(folder, "take the lock"):
            self._file = (folder / _NAME).open("a+b", buffering=0)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.seek(0)
            holder = self._file.read(20).decode(errors="replace") or "(unknown)"
            self._file.close()
            raise StoreUnavailable(
                "held",
                f"the cache store {folder} is in use by process {holder}: stop that server first, or name another "
                "store with --store",
            ) from None
        with suppress(OSError):  # a full disk; the name only helps to find the holder
            self._file.truncate(0)
            self._file.write(str(os.getpid()).encode())

    def close(self) -> None:
        self._file.close()
