"""DPM-Solver++(2M) (arXiv 2211.01095, algorithm 2), on variance-preserving models and on flows.

A step of it is the step that all schedulers share, made with a clean estimate that is carried on along its last change:

    D_i = x0_i + r_i · (x0_i − x0_{i−1}),   r_i = h_{i+1} / (2 h_i),   h_i = λ_i − λ_{i−1},   λ = log(alpha / sigma)

The first step has no change to go by, the last leads to sigma = 0, where λ is infinite; both are of first order, r = 0.
So is the first step of a run that begins in the middle, from an image or from stored latents.
"""

from __future__ import annotations

import numpy as np

from underpaint.diffusion.schedule import Schedule, make_schedule
from underpaint.diffusion.schedulers.betas import alphas_cumprod
from underpaint.diffusion.schedulers.config import DiffusionConfig, FlowMatchConfig
from underpaint.diffusion.schedulers.euler import SMALLEST_ALPHAS_CUMPROD
from underpaint.diffusion.schedulers.flow_match_euler import shifted


def dpm_solver_multistep(config: DiffusionConfig, num_inference_steps: int) -> Schedule:
    """The table of a run on a variance-preserving model."""
    bar = alphas_cumprod(config)
    if config.rescale_betas_zero_snr:
        bar[-1] = SMALLEST_ALPHAS_CUMPROD
    at = _timesteps(config, num_inference_steps)
    return _multistep(at, np.append(np.sqrt(bar[at]), 1.0), np.append(np.sqrt(1 - bar[at]), 0.0))


def flow_dpm_solver_multistep(config: FlowMatchConfig, num_inference_steps: int) -> Schedule:
    """The table of a run on a flow. diffusers starts one training step below pure noise, and tells whole timesteps.

    Its alphas are spaced, not its sigmas, so that rounding ends at the same whole numbers.
    """
    alpha = np.linspace(1, 1 / config.num_train_timesteps, num_inference_steps + 1)
    sigma = shifted(1 - alpha, config.shift)[::-1]
    return _multistep(np.floor(sigma[:-1] * config.num_train_timesteps), 1 - sigma, sigma)


def _timesteps(config: DiffusionConfig, num_inference_steps: int) -> np.ndarray:
    """Descending timesteps, int64 [N]. Other than for Euler, the end of the run counts as one of the steps spaced."""
    total, count = config.num_train_timesteps, num_inference_steps + 1
    if config.timestep_spacing == "linspace":
        at = np.round(np.linspace(0, total - 1, count))[:0:-1]
    elif config.timestep_spacing == "leading":
        at = np.arange(count)[:0:-1] * (total // count) + config.steps_offset
    else:
        at = np.round(np.arange(total, 0, -total / num_inference_steps))[:num_inference_steps] - 1
    return at.astype(np.int64)


def _multistep(timesteps: np.ndarray, alphas: np.ndarray, sigmas: np.ndarray) -> Schedule:
    """A schedule from N timesteps and the N + 1 levels that they lead through, the last without noise."""
    h = np.diff(np.log(alphas[:-1] / sigmas[:-1]))
    carry = np.zeros(len(timesteps))
    carry[1:-1] = h[1:] / (2 * h[:-1])
    return make_schedule(timesteps, alphas[:-1], sigmas[:-1], alphas[1:], sigmas[1:], carry=carry)
