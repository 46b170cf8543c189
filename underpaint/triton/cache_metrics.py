"""The cache in Prometheus. Each update crosses a process boundary, so they are sent once a second."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import triton_python_backend_utils as pb_utils

from underpaint.cache.cache import CacheStats

_GAUGES = {
    "entries": "Entries in the cache",
    "file_bytes": "Bytes of images and latents in the cache",
}
_COUNTERS = {
    "lookups": "Lookups answered",
    "hits": "Lookups that offered at least one entry, near or not",
    "fetches": "Images and latents handed out",
    "inserts": "Entries put in",
    "evictions": "Entries, or states of entries, that made room",
    "corrupt": "Damaged files that were found and dropped",
}
_ERRORS = {"errors": "Requests refused, by reason"}


@dataclass(frozen=True)
class CacheActivity:
    """``stats`` is None while no store is open; ``errors`` are counted by reason."""

    stats: CacheStats | None
    errors: Mapping[str, int]


class CacheMetrics:
    """``underpaint_cache_*``: copies the activity of a cache into Triton's metrics endpoint, in a thread of its own."""

    def __init__(self, model: str, activity: Callable[[], CacheActivity], period_s: float = 1.0) -> None:
        self._model, self._activity, self._period_s = model, activity, period_s
        self._families = {name: _family(name, text) for name, text in {**_GAUGES, **_COUNTERS, **_ERRORS}.items()}
        self._metrics: dict[tuple[str, ...], pb_utils.Metric] = {}
        self._sent: Counter[tuple[str, ...]] = Counter()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="metrics", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop, and drop the metrics before their families, as the Python backend demands."""
        self._closed.set()
        self._thread.join(timeout=2.0)
        self._metrics.clear()
        self._families.clear()

    def _follow(self) -> None:
        while not self._closed.wait(self._period_s):
            now = self._activity()
            for reason, count in dict(now.errors).items():
                self._send("errors", count, reason=reason)
            if now.stats is not None:
                for name in (*_GAUGES, *_COUNTERS):
                    self._send(name, getattr(now.stats, name))

    def _send(self, name: str, value: int, **labels: str) -> None:
        """A metric comes into being with its first value; a counter is told what has been added since."""
        key = (name, *labels.values())
        if key not in self._metrics:
            self._metrics[key] = self._families[name].Metric(labels={"model": self._model, **labels})
        if name in _GAUGES:
            self._metrics[key].set(value)
        elif value > self._sent[key]:
            self._metrics[key].increment(value - self._sent[key])
            self._sent[key] = value


def _family(name: str, description: str) -> pb_utils.MetricFamily:
    gauge = name in _GAUGES
    kind = pb_utils.MetricFamily.GAUGE if gauge else pb_utils.MetricFamily.COUNTER
    full_name = f"underpaint_cache_{name}{'' if gauge else '_total'}"
    return pb_utils.MetricFamily(name=full_name, description=description, kind=kind)
