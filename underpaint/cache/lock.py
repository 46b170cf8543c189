"""One server per store."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from underpaint.cache.errors import StoreUnavailable, explained

_NAME = "lock"


class StoreLock:
    """Held from construction to ``close``, or to the end of the process, however that comes: flock(2)."""

    def __init__(self, folder: Path) -> None:
        with explained(folder, "take the lock"):
            self._file = os.open(folder / _NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(self._file, 20, 0).decode(errors="replace").strip()
            os.close(self._file)
            raise StoreUnavailable(
                "held",
                f"the cache store {folder} is in use by process {holder or '(unknown)'}: stop that server first, or "
                "name another store with --store",
            ) from None
        os.truncate(self._file, 0)
        os.pwrite(self._file, str(os.getpid()).encode(), 0)

    def close(self) -> None:
        os.close(self._file)
