"""``underpaint_denoiser_*``: what a denoiser does, for Prometheus."""

from __future__ import annotations

from collections.abc import Callable

from underpaint.addons.store import Residents
from underpaint.diffusion.engine import Activity
from underpaint.triton.metrics import Metrics, Reporter

_GAUGES = {"running": "Requests in a UNet call at this moment", "waiting": "Requests between two UNet calls"}
_COUNTERS = {
    "steps": "Denoising steps made",
    "unet_calls": "UNet calls that succeeded",
    "unet_rows": "Rows in those calls",
    "retries": "UNet calls that failed and were tried again",
}


_LORA_GAUGES = {
    "loras": "LoRAs in memory",
    "lora_bytes": "Bytes that they take",
    "lora_most_bytes": "The most that they have ever taken",
}
_LORA_COUNTERS = {
    "lora_hits": "LoRAs that were in memory when somebody wanted them",
    "lora_loads": "LoRAs that were not",
    "lora_failures": "Loads that failed",
    "lora_evictions": "LoRAs that had to make room for others",
}


class DenoiserMetrics:
    """Copies an engine's activity, and its LoRAs' where it has any, into the metrics, once a second."""

    def __init__(
        self, model: str, activity: Callable[[], Activity], loras: Callable[[], Residents] | None = None
    ) -> None:
        self._activity, self._loras = activity, loras
        gauges, counters = _GAUGES, _COUNTERS
        if loras is not None:
            gauges, counters = {**gauges, **_LORA_GAUGES}, {**counters, **_LORA_COUNTERS}
        self._metrics = Metrics("underpaint_denoiser", model, gauges, counters)
        self._reporter = Reporter(self._send)

    def close(self) -> None:
        self._reporter.close()
        self._metrics.close()

    def _send(self) -> None:
        self._metrics.copy(self._activity(), _GAUGES, _COUNTERS)
        if self._loras is not None:
            self._send_loras(self._loras())

    def _send_loras(self, now: Residents) -> None:
        for name, value in zip(_LORA_GAUGES, (now.loras, now.nbytes, now.most_nbytes), strict=True):
            self._metrics.set(name, value)
        for name in _LORA_COUNTERS:
            self._metrics.reach(name, getattr(now, name.removeprefix("lora_")))
