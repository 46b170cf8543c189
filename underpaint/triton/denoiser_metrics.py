"""``underpaint_denoiser_*``: what a denoiser does, for Prometheus."""

from __future__ import annotations

from collections.abc import Callable

from underpaint.diffusion.engine import Activity
from underpaint.triton.metrics import Metrics, Reporter

_GAUGES = {"running": "Requests in a UNet call at this moment", "waiting": "Requests between two UNet calls"}
_COUNTERS = {
    "steps": "Denoising steps made",
    "unet_calls": "UNet calls that succeeded",
    "unet_rows": "Rows in those calls",
    "retries": "UNet calls that failed and were tried again",
}


class DenoiserMetrics:
    """Copies an engine's activity into the metrics, once a second."""

    def __init__(self, model: str, activity: Callable[[], Activity]) -> None:
        self._activity = activity
        self._metrics = Metrics("underpaint_denoiser", model, _GAUGES, _COUNTERS)
        self._reporter = Reporter(self._send)

    def close(self) -> None:
        self._reporter.close()
        self._metrics.close()

    def _send(self) -> None:
        now = self._activity()
        for name in _GAUGES:
            self._metrics.set(name, getattr(now, name))
        for name in _COUNTERS:
            self._metrics.reach(name, getattr(now, name))
