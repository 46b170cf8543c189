"""The front door's tally as Prometheus metrics. Each update crosses a process boundary, so they are sent together."""

from __future__ import annotations

from collections import Counter
from dataclasses import fields

import triton_python_backend_utils as pb_utils

from underpaint.front_door.tally import Tally

_PREFIX = "underpaint_door"


class DoorMetrics:
    """``underpaint_door_*``: each counter of a tally, and how many requests are being served."""

    def __init__(self, model: str, tally: Tally) -> None:
        self._model, self._tally = model, tally
        # The backend brings this class in only after models have been imported.
        counter, gauge = pb_utils.MetricFamily.COUNTER, pb_utils.MetricFamily.GAUGE
        self._families = {f.name: _family(f"{f.name}_total", f.metadata["help"], counter) for f in fields(Tally)}
        self._labels = {f.name: ("model", *f.metadata["labels"]) for f in fields(Tally)}
        self._metrics: dict[tuple[str, ...], pb_utils.Metric] = {}
        self._sent: Counter[tuple[str, ...]] = Counter()
        self._gauges = _family("in_flight", "Requests that are being served", gauge)
        self._in_flight = self._gauges.Metric(labels={"model": model})

    def send(self, in_flight: int) -> None:
        """Whatever has changed since the last time."""
        self._in_flight.set(in_flight)
        for name, labels in self._labels.items():
            for values, count in getattr(self._tally, name).items():
                key = (name, *values)
                if count > self._sent[key]:
                    self._metric(key, labels).increment(count - self._sent[key])
                    self._sent[key] = count

    def close(self) -> None:
        """Drop the metrics before their families, as the Python backend demands."""
        self._metrics.clear()
        del self._in_flight
        self._families.clear()
        del self._gauges

    def _metric(self, key: tuple[str, ...], labels: tuple[str, ...]) -> pb_utils.Metric:
        """A counter comes into being with the first thing that it counts."""
        if key not in self._metrics:
            name, *values = key
            self._metrics[key] = self._families[name].Metric(
                labels=dict(zip(labels, (self._model, *values), strict=True))
            )
        return self._metrics[key]


def _family(name: str, description: str, kind: int) -> pb_utils.MetricFamily:
    return pb_utils.MetricFamily(name=f"{_PREFIX}_{name}", description=description, kind=kind)
