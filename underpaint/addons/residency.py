"""Which models stay loaded: those in use, and of the others the last used, up to a limit."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass

from underpaint.errors import UnderpaintError


@dataclass
class _Resident:
    loading: Future[None]
    users: int = 0


class Residency:
    """Loads models when they are wanted and unloads those that have not been for longest. Threads may share it."""

    def __init__(self, load: Callable[[str], None], unload: Callable[[str], None], limit: int) -> None:
        """
        Args:
            load, unload: may block, and raise an UnderpaintError; one of them is called at a time. To load what is
                loaded must do nothing.
            limit: how many stay loaded; more only while they are in use.
        """
        self._load, self._unload, self._limit = load, unload, limit
        self._residents: OrderedDict[str, _Resident] = OrderedDict()  # the last used last
        self._lock = threading.Lock()
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="residency")  # in the order in which it was decided

    def acquire(self, names: Sequence[str]) -> list[Future[None]]:
        """These are in use from now on. The futures end when each is loaded, or with why it cannot be."""
        with self._lock:
            loading = [self._use(name) for name in names]
            self._evict()
        return loading

    def release(self, names: Iterable[str]) -> None:
        """They are not in use any more, by one of those who said that they were."""
        with self._lock:
            for name in names:
                resident = self._residents.get(name)
                if resident is not None:
                    resident.users -= 1
            self._evict()

    def restore(self, name: str) -> None:
        """It does not answer: load it again, in case that it is not there any more."""
        with self._lock:
            resident = self._residents.get(name)
            if resident is not None and resident.loading.done():
                resident.loading = self._worker.submit(self._load, name)

    def close(self) -> None:
        self._worker.shutdown(wait=False, cancel_futures=True)

    def _use(self, name: str) -> Future[None]:
        resident = self._residents.pop(name, None)
        if resident is None or _failed(resident.loading):
            users = resident.users if resident else 0
            resident = _Resident(self._worker.submit(self._load, name), users)
        resident.users += 1
        self._residents[name] = resident
        return resident.loading

    def _evict(self) -> None:
        idle = [name for name, resident in self._residents.items() if resident.users <= 0]
        for name in idle[: max(0, len(self._residents) - self._limit)]:
            del self._residents[name]
            self._worker.submit(self._forget, name)

    def _forget(self, name: str) -> None:
        with suppress(UnderpaintError):  # it was never loaded, or has gone by itself
            self._unload(name)


def _failed(loading: Future[None]) -> bool:
    return loading.done() and loading.exception() is not None
