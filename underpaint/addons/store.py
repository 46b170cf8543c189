"""The LoRAs of one base: loaded in the background when somebody asks, kept in memory while they are hot."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from underpaint.addons import sources
from underpaint.addons.layout import LoraLayout
from underpaint.addons.lora import Lora, read_lora
from underpaint.addons.sources import Limits
from underpaint.errors import InvalidArgument, UnderpaintError, Unsupported
from underpaint.latest import Latest

_LOADERS = 4  # side by side; more wait
_REFUSALS = 256  # that are remembered
_LASTING = (InvalidArgument, Unsupported)  # as long as the file is the same


@dataclass(frozen=True)
class Residents:
    """What the store holds and what it has done, for metrics and measurements."""

    loras: int
    nbytes: int
    most_nbytes: int
    loads: int
    hits: int
    failures: int
    evictions: int


class LoraStore:
    """Finds, reads, checks and keeps LoRAs; the least recently used go when they take more than ``max_bytes``."""

    def __init__(
        self,
        where: Sequence[str],
        layouts: Mapping[str, LoraLayout],
        max_bytes: int = 256 << 20,
        limits: Limits | None = None,
    ) -> None:
        """``layouts`` by network, see ``read_lora``. ``max_bytes``: one is kept in any case."""
        self._where, self._layouts = tuple(where), layouts
        self._max_bytes, self._limits = max_bytes, limits or Limits()
        self._residents: OrderedDict[str, tuple[str, Lora]] = OrderedDict()  # with the stamp of the file
        self._refused: Latest[tuple[str, str], UnderpaintError] = Latest(_REFUSALS)  # by name and stamp
        self._loading: dict[str, Future[Lora]] = {}
        self._nbytes = self._most_nbytes = self._loads = self._hits = self._failures = self._evictions = 0
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(_LOADERS, thread_name_prefix="lora")

    def load(self, name: str) -> Future[Lora]:
        """The LoRA, at once if it is in memory and its file has not changed; else as soon as it has been read.

        The future fails as ``sources.fetch`` and ``read_lora`` do. A file that is none, or not for this base, is not
        read again until it changes; what has failed otherwise is tried anew when asked for again.
        """
        stamp = sources.stamp(name, self._where)
        with self._lock:
            kept = self._residents.get(name)
            if kept is not None and kept[0] == stamp:
                self._residents.move_to_end(name)
                self._hits += 1
                return _done(kept[1])
            refused = self._refused.get((name, stamp)) if stamp else None
            if refused is not None:
                return _failed(refused)
            if name not in self._loading:
                self._loads += 1
                self._loading[name] = self._pool.submit(self._load, name, stamp)
            return self._loading[name]

    def residents(self) -> Residents:
        with self._lock:
            counts = (self._nbytes, self._most_nbytes, self._loads, self._hits, self._failures, self._evictions)
            return Residents(len(self._residents), *counts)

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _load(self, name: str, stamp: str) -> Lora:
        try:
            file = sources.fetch(name, self._where, self._limits)
            lora = read_lora(name, file.content, self._layouts, file.adapter_config)
        except BaseException as error:
            with self._lock:
                self._failures += 1
                del self._loading[name]
                if isinstance(error, _LASTING):
                    self._refused.put((name, stamp), error)
            raise
        with self._lock:
            self._keep(name, stamp, lora)
            del self._loading[name]
        return lora

    def _keep(self, name: str, stamp: str, lora: Lora) -> None:
        before = self._residents.pop(name, None)
        self._nbytes += lora.nbytes - (before[1].nbytes if before else 0)
        self._residents[name] = (stamp, lora)
        while self._nbytes > self._max_bytes and len(self._residents) > 1:
            _, (_, coldest) = self._residents.popitem(last=False)
            self._nbytes -= coldest.nbytes
            self._evictions += 1
        self._most_nbytes = max(self._most_nbytes, self._nbytes)


def _done(lora: Lora) -> Future[Lora]:
    future: Future[Lora] = Future()
    future.set_result(lora)
    return future


def _failed(error: UnderpaintError) -> Future[Lora]:
    future: Future[Lora] = Future()
    future.set_exception(error)
    return future
