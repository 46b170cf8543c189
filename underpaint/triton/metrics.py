"""Prometheus metrics of our own. Each update crosses a process boundary, so they are sent once a second."""

from __future__ import annotations

import threading
from collections.abc import Callable

import triton_python_backend_utils as pb_utils

from underpaint.diffusion.engine import Activity

_GAUGES = {"running": "Requests in a UNet call at this moment", "waiting": "Requests between two UNet calls"}
_COUNTERS = {
    "steps": "Denoising steps made",
    "unet_calls": "UNet calls that succeeded",
    "unet_rows": "Rows in those calls",
    "retries": "UNet calls that failed and were tried again",
}


class EngineMetrics:
    """Copies an engine's activity into Triton's metrics endpoint, in a thread of its own."""

    def __init__(self, model: str, activity: Callable[[], Activity], period_s: float = 1.0) -> None:
        self._activity, self._period_s = activity, period_s
        self._last = activity()
        labels = {"model": model}
        self._families = [
            *(_family(name, text, pb_utils.MetricFamily.GAUGE) for name, text in _GAUGES.items()),
            *(_family(f"{name}_total", text, pb_utils.MetricFamily.COUNTER) for name, text in _COUNTERS.items()),
        ]
        self._metrics = dict(
            zip([*_GAUGES, *_COUNTERS], (f.Metric(labels=labels) for f in self._families), strict=True)
        )
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
            for name in _GAUGES:
                if getattr(now, name) != getattr(self._last, name):
                    self._metrics[name].set(getattr(now, name))
            for name in _COUNTERS:
                grown = getattr(now, name) - getattr(self._last, name)
                if grown:
                    self._metrics[name].increment(grown)
            self._last = now


def _family(name: str, description: str, kind: int) -> pb_utils.MetricFamily:
    return pb_utils.MetricFamily(name=f"underpaint_denoiser_{name}", description=description, kind=kind)
