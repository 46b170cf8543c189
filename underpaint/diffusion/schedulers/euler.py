"""Euler's method on the probability-flow ODE (arXiv 2206.00364, algorithm 2 without churn)."""

from __future__ import annotations

import numpy as np

from underpaint.diffusion.schedule import Schedule, make_schedule
from underpaint.diffusion.schedulers import spacing
from underpaint.diffusion.schedulers.betas import alphas_cumprod
from underpaint.diffusion.schedulers.config import DiffusionConfig

# A model with zero terminal SNR has σ̂ = ∞ at its last timestep; diffusers stops just short of it.
SMALLEST_ALPHAS_CUMPROD = 2.0**-24


def euler(config: DiffusionConfig, num_inference_steps: int) -> Schedule:
    """The table of an Euler run, interpolated in σ̂ = sigma / alpha as k-diffusion does."""
    bar = alphas_cumprod(config)
    if config.rescale_betas_zero_snr:
        bar[-1] = SMALLEST_ALPHAS_CUMPROD
    ratios = np.sqrt((1 - bar) / bar)
    at = spacing.timesteps(config, num_inference_steps)
    ratio = np.interp(at, np.arange(len(ratios)), ratios)
    last = 0.0 if config.final_sigmas_type == "zero" else ratios[0]
    ratio_next = np.append(ratio[1:], last)
    alpha, alpha_next = 1 / np.sqrt(1 + ratio**2), 1 / np.sqrt(1 + ratio_next**2)
    initial = 1.0 if config.timestep_spacing == "leading" else ratio[0] * alpha[0]
    return make_schedule(at, alpha, ratio * alpha, alpha_next, ratio_next * alpha_next, initial)
