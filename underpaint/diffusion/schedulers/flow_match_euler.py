"""Euler's method on a rectified flow (arXiv 2209.03003), with the resolution shift of arXiv 2403.03206, eq. 23."""

from __future__ import annotations

import numpy as np

from underpaint.diffusion.schedule import Schedule, make_schedule
from underpaint.diffusion.schedulers.config import FlowMatchConfig


def flow_match_euler(config: FlowMatchConfig, num_inference_steps: int) -> Schedule:
    """The table of a flow-matching run: alpha = 1 − sigma, the timestep is sigma in units of training steps."""
    total = config.num_train_timesteps
    # The endpoints are shifted once when diffusers builds the scheduler and once more when it sets the steps.
    endpoints = _shift(np.array([1.0, 1.0 / total]), config.shift)
    sigma = _shift(np.linspace(endpoints[0], endpoints[1], num_inference_steps), config.shift)
    sigma_next = np.append(sigma[1:], 0.0)
    return make_schedule(sigma * total, 1 - sigma, sigma, 1 - sigma_next, sigma_next)


def _shift(sigma: np.ndarray, shift: float) -> np.ndarray:
    return shift * sigma / (1 + (shift - 1) * sigma)
