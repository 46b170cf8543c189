"""Which training timesteps a run of N steps visits (arXiv 2305.08891, table 2)."""

from __future__ import annotations

import numpy as np

from underpaint.diffusion.schedulers.config import DiffusionConfig


def timesteps(config: DiffusionConfig, num_inference_steps: int) -> np.ndarray:
    """Descending timesteps, float64 [N]; fractional where the spacing is ``linspace``."""
    total = config.num_train_timesteps
    if config.timestep_spacing == "linspace":
        return np.linspace(0, total - 1, num_inference_steps)[::-1]
    if config.timestep_spacing == "leading":
        ratio = total // num_inference_steps
        return (np.arange(num_inference_steps) * ratio)[::-1].astype(np.float64) + config.steps_offset
    return np.round(np.arange(total, 0, -total / num_inference_steps))[:num_inference_steps] - 1.0
