"""DDIM (arXiv 2010.02502), deterministic: η = 0."""

from __future__ import annotations

import numpy as np

from underpaint.diffusion.schedule import Schedule, make_schedule
from underpaint.diffusion.schedulers import spacing
from underpaint.diffusion.schedulers.betas import alphas_cumprod
from underpaint.diffusion.schedulers.config import DiffusionConfig
from underpaint.errors import Unsupported


def ddim(config: DiffusionConfig, num_inference_steps: int) -> Schedule:
    """The table of a DDIM run. The step length is the integer T // N, as in the paper's code and in diffusers."""
    bar = alphas_cumprod(config)
    if config.prediction_type == "epsilon" and bar[-1] == 0:
        raise Unsupported("rescale_betas_zero_snr with prediction_type epsilon: pure noise says nothing of the image")
    final = 1.0 if config.set_alpha_to_one else bar[0]
    at = np.round(spacing.timesteps(config, num_inference_steps)).astype(np.int64)
    towards = at - config.num_train_timesteps // num_inference_steps
    bar_next = np.where(towards >= 0, bar[np.maximum(towards, 0)], final)
    return make_schedule(at, np.sqrt(bar[at]), np.sqrt(1 - bar[at]), np.sqrt(bar_next), np.sqrt(1 - bar_next))
