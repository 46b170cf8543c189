"""What a model predicts, converted once at the edge into "clean estimate and noise estimate".

With ``x = alpha·x0 + sigma·ε`` (see ``schedule``), each prediction type is one of these read backwards:

- ``epsilon``: the noise ε;
- ``v_prediction``: v = alpha·ε − sigma·x0 (arXiv 2202.00512);
- ``sample``: x0 itself;
- ``flow``: the velocity ε − x0 of rectified flow (arXiv 2209.03003), where alpha + sigma = 1.

All arrays are float32 [n, C, h, w]; alpha and sigma are float32 [n, 1, 1, 1].
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from underpaint.errors import InvalidArgument

Estimates = tuple[np.ndarray, np.ndarray]  # (x0_hat, epsilon_hat)
Prediction = Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray], Estimates]


def epsilon(output: np.ndarray, x: np.ndarray, alpha: np.ndarray, sigma: np.ndarray) -> Estimates:
    return (x - sigma * output) / alpha, output


def v_prediction(output: np.ndarray, x: np.ndarray, alpha: np.ndarray, sigma: np.ndarray) -> Estimates:
    return alpha * x - sigma * output, alpha * output + sigma * x


def sample(output: np.ndarray, x: np.ndarray, alpha: np.ndarray, sigma: np.ndarray) -> Estimates:
    return output, (x - alpha * output) / sigma


def flow(output: np.ndarray, x: np.ndarray, alpha: np.ndarray, sigma: np.ndarray) -> Estimates:
    return x - sigma * output, x + alpha * output


PREDICTIONS: dict[str, Prediction] = {
    "epsilon": epsilon,
    "v_prediction": v_prediction,
    "sample": sample,
    "flow": flow,
}


def by_name(prediction_type: str) -> Prediction:
    """The conversion for a prediction type, as diffusers spells it (and ``flow``)."""
    if prediction_type not in PREDICTIONS:
        raise InvalidArgument.of("prediction_type", prediction_type, ", ".join(PREDICTIONS))
    return PREDICTIONS[prediction_type]
