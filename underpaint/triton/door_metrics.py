"""``underpaint_door_*``: the front door's tally, for Prometheus."""

from __future__ import annotations

from dataclasses import fields

from underpaint.front_door.tally import Tally
from underpaint.triton.metrics import Metrics

_IN_FLIGHT = "in_flight"


class DoorMetrics:
    """Each counter of a tally, and how many requests are being served."""

    def __init__(self, model: str, tally: Tally) -> None:
        self._tally = tally
        self._labels = {f.name: f.metadata["labels"] for f in fields(Tally)}
        counters = {f.name: f.metadata["help"] for f in fields(Tally)}
        self._metrics = Metrics("underpaint_door", model, {_IN_FLIGHT: "Requests that are being served"}, counters)

    def send(self, in_flight: int) -> None:
        """Whatever has changed since the last time."""
        self._metrics.set(_IN_FLIGHT, in_flight)
        for name, labels in self._labels.items():
            for values, total in getattr(self._tally, name).items():
                self._metrics.reach(name, total, **dict(zip(labels, values, strict=True)))

    def close(self) -> None:
        self._metrics.close()
