"""The rows of a call: what one or many trajectories ask of the network at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from underpaint.diffusion.conditioning import Conditioning

Answer = Callable[[], np.ndarray]


@dataclass(frozen=True, eq=False)
class Rows:
    """What a network is called with: float32 [b, C, h, w], float32 [b], and the conditioning of b rows."""

    sample: np.ndarray
    timestep: np.ndarray
    conditioning: Conditioning

    def __getitem__(self, part: np.ndarray) -> Rows:
        return Rows(self.sample[part], self.timestep[part], self.conditioning[part])

    def __len__(self) -> int:
        return len(self.sample)


def wait_for_all(answers: Iterable[Answer]) -> list[np.ndarray]:
    """Every answer; or the first failure, but only when all have come back, since a step is tried again as a whole."""
    outputs, failures = [], []
    for answer in answers:
        try:
            outputs.append(answer())
        except Exception as error:
            failures.append(error)
    if failures:
        raise failures[0]
    return outputs
