"""Euler's method on a rectified flow (arXiv 2209.03003), with the resolution shift of arXiv 2403.03206, eq. 23."""

from __future__ import annotations

import numpy as np

from underpaint.diffusion.schedule import Schedule, make_schedule
from underpaint.diffusion.schedulers.config import FlowMatchConfig


def flow_match_euler(config: FlowMatchConfig, num_inference_steps: int) -> Schedule:
    """The table of a flow-matching run: alpha = 1 − sigma, the timestep is sigma in units of training steps."""
    first, last = _endpoints(config, num_inference_steps)
    sigma = shifted(np.linspace(first, last, num_inference_steps), config.shift)
    sigma_next = np.append(sigma[1:], 0.0)
    return make_schedule(sigma * config.num_train_timesteps, 1 - sigma, sigma, 1 - sigma_next, sigma_next)


def shifted(sigma: np.ndarray, shift: float) -> np.ndarray:
    """Noise levels moved to where a larger image needs them (eq. 23)."""
    return shift * sigma / (1 + (shift - 1) * sigma)


def _endpoints(config: FlowMatchConfig, num_inference_steps: int) -> np.ndarray:
    """The first and the last noise level, before they are shifted."""
    if config.timestep_spacing == "trailing":
        return np.array([1.0, 1.0 / num_inference_steps])
    ends = np.array([1.0, 1.0 / config.num_train_timesteps])
    # A constant shift moves them twice: once when diffusers builds the scheduler, once more when it sets the steps.
    return ends if config.use_dynamic_shifting else shifted(ends, config.shift)
