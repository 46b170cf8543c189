"""What things have cost of late, for policies that weigh one against the other."""

from __future__ import annotations

from collections import deque

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

    def step(self, variant: str, step_ms: float) -> None:
        """A denoising step of ``variant``."""
        steps = self._steps.setdefault(variant, deque(maxlen=_REMEMBERED))
        steps.append(step_ms)
        self.measured = Measured({**self.measured.step_ms, variant: float(np.median(steps))}, self.measured.fetch_ms)

    def fetch(self, fetch_ms: float) -> None:
        """A fetch of latents, whether it was in time or not."""
        self._fetches.append(fetch_ms)
        self.measured = Measured(self.measured.step_ms, float(np.quantile(self._fetches, 0.95)))

    def painting_s(self, variant: str, sampling: Sampling) -> float:
        """What ``variant`` takes from noise, in seconds; 0 where that has not been seen yet."""
        return self.measured.step_ms.get(variant, 0.0) * sampling.num_inference_steps / 1e3
