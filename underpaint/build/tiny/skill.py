"""How well scores foresee what happens: ranking (AUC), calibration, and what makes probabilities of logits."""

from __future__ import annotations

import numpy as np

_NEWTON_STEPS = 50
_RIDGE = 1e-3  # keeps the scale finite where scores separate the two classes


def auc(scores: np.ndarray, happened: np.ndarray) -> float:
    """The chance that what happened was scored above what did not; ties count half. nan where only one of them is.

    `scores` float [N]; `happened` bool [N].
    """
    happened = happened.astype(bool)
    _, places, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[places]
    yes, no = int(happened.sum()), int((~happened).sum())
    if yes == 0 or no == 0:
        return float("nan")
    return float((ranks[happened].sum() - yes * (yes + 1) / 2) / (yes * no))


def calibration_error(probabilities: np.ndarray, happened: np.ndarray, bins: int = 10) -> float:
    """Expected calibration error (Guo et al. 2017, arXiv:1706.04599), over bins that hold as many scores each."""
    order = np.argsort(probabilities, kind="stable")
    parts = [part for part in np.array_split(order, bins) if len(part)]
    gaps = [abs(probabilities[part].mean() - happened[part].mean()) * len(part) for part in parts]
    return float(np.sum(gaps) / len(order))


def platt(logits: np.ndarray, targets: np.ndarray) -> tuple[float, float]:
    """Scale and offset that make `sigmoid(scale * logit + offset)` the likeliest probability of `targets`, in [0, 1].

    Platt 1999, by Newton's method on the cross-entropy, with the least pull towards a scale of 1.
    """
    inputs = np.stack([logits.astype(np.float64), np.ones(len(logits))], axis=1)
    weights, start, ridge = np.array([1.0, 0.0]), np.array([1.0, 0.0]), _RIDGE * np.eye(2)
    for _ in range(_NEWTON_STEPS):
        probabilities = sigmoid(inputs @ weights)
        gradient = inputs.T @ (probabilities - targets) + ridge @ (weights - start)
        curvature = (inputs * (probabilities * (1 - probabilities))[:, None]).T @ inputs + ridge
        step = np.linalg.solve(curvature, gradient)
        weights = weights - step * min(1.0, 2.0 / max(np.abs(step).max(), 1e-12))
        if np.abs(step).max() < 1e-9:
            break
    return float(weights[0]), float(weights[1])


def sigmoid(values: np.ndarray) -> np.ndarray:
    clipped: np.ndarray = np.clip(values, -60.0, 60.0)
    result: np.ndarray = 1 / (1 + np.exp(-clipped))
    return result
