"""Metrics of our own at Triton's endpoint for Prometheus.

Each update crosses a process boundary, so whoever has something to tell does so about once a second.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping

import triton_python_backend_utils as pb_utils


class Metrics:
    """The metrics of one model, by name and labels. Each comes into being with its first value."""

    def __init__(self, prefix: str, model: str, gauges: Mapping[str, str], counters: Mapping[str, str]) -> None:
        """``gauges`` and ``counters``: what each means, by name; a counter is shown as ``<prefix>_<name>_total``."""
        self._model = model
        # The backend brings these classes in only after models have been imported.
        gauge, counter = pb_utils.MetricFamily.GAUGE, pb_utils.MetricFamily.COUNTER
        self._families = {name: _family(f"{prefix}_{name}", text, gauge) for name, text in gauges.items()}
        self._families |= {name: _family(f"{prefix}_{name}_total", text, counter) for name, text in counters.items()}
        self._metrics: dict[tuple[str, ...], pb_utils.Metric] = {}
        self._counted: Counter[tuple[str, ...]] = Counter()
        self._shown: dict[str, float] = {}

    def set(self, gauge: str, value: float) -> None:
        """A gauge stands at ``value``."""
        if self._shown.get(gauge) != value:
            self._metric((gauge,), {}).set(value)
            self._shown[gauge] = value

    def reach(self, counter: str, total: float, **labels: str) -> None:
        """A counter has come to ``total``."""
        key = (counter, *labels.values())
        metric = self._metric(key, labels)
        if total > self._counted[key]:
            metric.increment(total - self._counted[key])
            self._counted[key] = total  # type: ignore[assignment]  # sums of scores are counters too

    def copy(self, record: object, gauges: Iterable[str], counters: Iterable[str]) -> None:
        """What a record says, in attributes of the metrics' own names."""
        for name in gauges:
            self.set(name, getattr(record, name))
        for name in counters:
            self.reach(name, getattr(record, name))

    def close(self) -> None:
        """Drop the metrics before their families, as the Python backend demands."""
        self._metrics.clear()
        self._families.clear()

    def _metric(self, key: tuple[str, ...], labels: Mapping[str, str]) -> pb_utils.Metric:
        if key not in self._metrics:
            self._metrics[key] = self._families[key[0]].Metric(labels={"model": self._model, **labels})
        return self._metrics[key]


class Reporter:
    """Calls ``send`` once a second, in a thread of its own."""

    def __init__(self, send: Callable[[], None], period_s: float = 1.0) -> None:
        self._send, self._period_s = send, period_s
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._report, name="metrics", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._closed.set()
        self._thread.join(timeout=2.0)

    def _report(self) -> None:
        while not self._closed.wait(self._period_s):
            self._send()


def _family(name: str, description: str, kind: int) -> pb_utils.MetricFamily:
    return pb_utils.MetricFamily(name=name, description=description, kind=kind)
