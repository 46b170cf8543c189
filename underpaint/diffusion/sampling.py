"""The one update that every scheduler shares (see ``schedule``), for a whole batch at different steps."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from underpaint.diffusion.prediction import Estimates, Prediction
from underpaint.diffusion.schedule import Schedule

Position = tuple[Schedule, int]  # a row's table, and the step that it is at


def step(
    predict: Prediction,
    positions: Sequence[Position],
    x: np.ndarray,
    output: np.ndarray,
    previous: Sequence[np.ndarray | None],
) -> Estimates:
    """Advance every row by its own step.

    Args:
        predict: what ``output`` means.
        positions: n pairs; rows may follow different tables.
        x: float32 [n, C, h, w], the samples that the model saw.
        output: float32 [n, C, h, w], what it answered, guidance applied.
        previous: n clean estimates of the steps before, float32 [C, h, w]; None in the first step of a run.

    Returns:
        The next samples and the clean estimates, each float32 [n, C, h, w].
    """
    alpha, sigma, alpha_next, sigma_next = _levels(positions)
    x0, eps = predict(output, x, alpha, sigma)
    x_next = alpha_next * x0 + sigma_next * eps
    for row, ((schedule, i), before) in enumerate(zip(positions, previous, strict=True)):
        if schedule.carry[i] and before is not None:
            # The noise estimate follows from the clean one, x being what it is.
            ahead = alpha_next[row] - sigma_next[row] * alpha[row] / sigma[row]
            x_next[row] += ahead * schedule.carry[i] * (x0[row] - before)
    return x_next, x0


def guide(output: np.ndarray, guided: np.ndarray, scale: np.ndarray, rows: int) -> np.ndarray:
    """Classifier-free guidance (arXiv 2207.12598, eq. 6): negative + scale · (prompt − negative).

    Args:
        output: float32 [rows + g, C, h, w]; the first ``rows`` saw the prompt, the other g the negative prompt.
        guided: int [g], which of the first rows each of the g belongs to.
        scale: float32 [g].

    Returns:
        float32 [rows, C, h, w]; rows without guidance as they came.
    """
    result = output[:rows].copy()
    negative = output[rows:]
    result[guided] = negative + scale[:, None, None, None] * (result[guided] - negative)
    return result


def _levels(positions: Sequence[Position]) -> np.ndarray:
    table = [(s.alphas[i], s.sigmas[i], s.alphas_next[i], s.sigmas_next[i]) for s, i in positions]
    return np.asarray(table, np.float32).T[:, :, None, None, None]
