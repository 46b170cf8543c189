"""What things have cost of late, for policies that weigh one against the other."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import replace
from statistics import median

import numpy as np

from underpaint.deployment import Sampling
from underpaint.evidence import Measured

_REMEMBERED = 64


class Costs:
    """The last few measurements of each kind, in milliseconds."""

    def __init__(self) -> None:
        self._steps: dict[str, deque[float]] = {}
        self._fetches: deque[float] = deque(maxlen=_REMEMBERED)
        self.measured = Measured()

    def step(self, variant: str, step_ms: float, work_s: float) -> None:
        """How long a denoising step of ``variant`` took, among others, and its work of late (see ``workload``)."""
        self.measured = replace(
            self.measured,
            step_ms=_with(self._steps, self.measured.step_ms, variant, step_ms),
            work_ms={**self.measured.work_ms, variant: 1e3 * work_s},
        )

    def fetch(self, fetch_ms: float) -> None:
        """A fetch of latents, whether it was in time or not."""
        self._fetches.append(fetch_ms)
        self.measured = replace(self.measured, fetch_ms=float(np.quantile(self._fetches, 0.95)))

    def painting_s(self, variant: str, sampling: Sampling) -> float:
        """What ``variant`` takes from noise, in seconds; 0 where that has not been seen yet."""
        return self.measured.step_ms.get(variant, 0.0) * sampling.num_inference_steps / 1e3


def _with(kept: dict[str, deque[float]], medians: Mapping[str, float], variant: str, ms: float) -> dict[str, float]:
    """The medians, now that one more measurement is known."""
    lately = kept.setdefault(variant, deque(maxlen=_REMEMBERED))
    lately.append(ms)
    return {**medians, variant: median(lately)}
