"""``underpaint_cache_*``: what the cache holds and does, for Prometheus."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from underpaint.cache.cache import CacheStats
from underpaint.triton.metrics import Metrics, Reporter

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
    """Copies the activity of a cache into the metrics, once a second."""

    def __init__(self, model: str, activity: Callable[[], CacheActivity]) -> None:
        self._activity = activity
        self._metrics = Metrics("underpaint_cache", model, _GAUGES, {**_COUNTERS, **_ERRORS})
        self._reporter = Reporter(self._send)

    def close(self) -> None:
        self._reporter.close()
        self._metrics.close()

    def _send(self) -> None:
        now = self._activity()
        for reason, count in dict(now.errors).items():
            self._metrics.reach("errors", count, reason=reason)
        if now.stats is not None:
            self._metrics.copy(now.stats, _GAUGES, _COUNTERS)
