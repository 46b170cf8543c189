"""The training-time noise schedule of variance-preserving models: β_t and ᾱ_t = Π (1 − β_s)."""

from __future__ import annotations

import math

import numpy as np

from underpaint.diffusion.schedulers.config import DiffusionConfig
from underpaint.errors import InvalidArgument


def alphas_cumprod(config: DiffusionConfig) -> np.ndarray:
    """ᾱ_t, float64 [num_train_timesteps].

    Betas are rounded to float32 as diffusers does, so that both walk the same table.
    """
    betas = _betas(config).astype(np.float32)
    if config.rescale_betas_zero_snr:
        betas = _rescale_zero_terminal_snr(betas)
    return np.cumprod(1.0 - betas.astype(np.float64))


def _betas(config: DiffusionConfig) -> np.ndarray:
    steps, start, end = config.num_train_timesteps, config.beta_start, config.beta_end
    if config.beta_schedule == "linear":
        return np.linspace(start, end, steps)
    if config.beta_schedule == "scaled_linear":
        return np.linspace(start**0.5, end**0.5, steps) ** 2
    if config.beta_schedule == "squaredcos_cap_v2":
        bar = [math.cos((t / steps + 0.008) / 1.008 * math.pi / 2) ** 2 for t in range(steps + 1)]
        return np.array([min(1 - bar[t + 1] / bar[t], 0.999) for t in range(steps)])
    raise InvalidArgument.of("beta_schedule", config.beta_schedule, "linear, scaled_linear, squaredcos_cap_v2")


def _rescale_zero_terminal_snr(betas: np.ndarray) -> np.ndarray:
    """Shift and stretch √ᾱ so that the last timestep is pure noise (arXiv 2305.08891, algorithm 1)."""
    root = np.sqrt(np.cumprod(1.0 - betas.astype(np.float64)))
    root = (root - root[-1]) * root[0] / (root[0] - root[-1])
    bar = root**2
    alphas = np.concatenate([bar[:1], bar[1:] / bar[:-1]])
    return 1.0 - alphas
