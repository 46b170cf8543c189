"""One parametrisation for every scheduler: a trajectory is ``x_i = alphas[i]·x0 + sigmas[i]·ε``.

DDIM, Euler and flow-matching Euler differ in which noise levels they visit and in the coordinates that their
papers write them in. In the coordinates above they share one update (DDIM, arXiv 2010.02502, eq. 12 with η = 0):

    x_next = alpha_next · x0_hat + sigma_next · ε_hat

- variance preserving models: alpha² + sigma² = 1;
- Euler in k-diffusion's variance-exploding x̂ = x / alpha with σ̂ = sigma / alpha: the same line, rescaled;
- flow matching: alpha = 1 − sigma, so that dx/dσ = ε − x0 is integrated by the same line.

A multistep method makes the same update with a clean estimate that it carries on along its last change (DPM-Solver++,
arXiv 2211.01095), so one more column says how far.

So a scheduler is a function from a step count to a :class:`Schedule`, a table, and nothing else in the server
asks which scheduler it was.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from underpaint.errors import InvalidArgument


@dataclass(frozen=True, eq=False)
class Schedule:
    """The noise levels of one denoising run of N steps; row ``i`` is what step ``i`` starts from.

    Attributes:
        timesteps: float32 [N], what the UNet is told.
        alphas, sigmas: float32 [N], signal and noise level before each step.
        alphas_next, sigmas_next: float32 [N], the levels that each step leads to. They are a table of their own
            because DDIM's step length is an integer division, which need not meet the next timestep exactly.
        carry: float32 [N], how far each step carries the clean estimate on, in units of its change since the step
            before; 0 for methods of one step.
        initial_sigma: standard deviation of the noise that a run from nothing starts with.
    """

    timesteps: np.ndarray
    alphas: np.ndarray
    sigmas: np.ndarray
    alphas_next: np.ndarray
    sigmas_next: np.ndarray
    carry: np.ndarray
    initial_sigma: float = 1.0

    def __len__(self) -> int:
        return len(self.timesteps)

    def start_from_noise(self, noise: np.ndarray) -> np.ndarray:
        """The sample before step 0. ``noise``: float32, unit variance."""
        return noise * np.float32(self.initial_sigma)

    def start_from_image(self, latents: np.ndarray, noise: np.ndarray, step: int) -> np.ndarray:
        """Clean ``latents`` with ``noise`` added up to the level that ``step`` starts from (SDEdit, MoDM eq. 3)."""
        self.check_step(step)
        return self.alphas[step] * latents + self.sigmas[step] * noise

    def check_step(self, step: int) -> None:
        """Raise InvalidArgument unless ``step`` is one of this run's steps."""
        if not 0 <= step < len(self):
            raise InvalidArgument.of("start_step", step, f"0 to {len(self) - 1} at {len(self)} steps")


def make_schedule(
    timesteps: np.ndarray,
    alphas: np.ndarray,
    sigmas: np.ndarray,
    alphas_next: np.ndarray,
    sigmas_next: np.ndarray,
    initial_sigma: float = 1.0,
    carry: np.ndarray | None = None,
) -> Schedule:
    """A :class:`Schedule` from float64 tables, rounded once, at the end. Without ``carry``, of one-step methods."""

    def single(table: np.ndarray) -> np.ndarray:
        return np.asarray(table, np.float32)

    return Schedule(
        single(timesteps),
        single(alphas),
        single(sigmas),
        single(alphas_next),
        single(sigmas_next),
        single(np.zeros(len(timesteps)) if carry is None else carry),
        float(initial_sigma),
    )
