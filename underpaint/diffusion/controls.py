"""ControlNets while an image is denoised: they run beside the UNet's encoder, and the decoder adds what they say.

A ControlNet (Zhang et al. 2023, arXiv:2302.05543) reads the same rows as the encoder, so neither waits for the other;
each ControlNet is called once a step for all rows that want it, whatever else these want (SwiftDiffusion,
arXiv:2407.02031, section 4.1, with the residuals summed as diffusers does).
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import numpy as np

from underpaint.diffusion.adapters import Adapted
from underpaint.diffusion.rows import Answer, Rows, wait_for_all

_AT_ONCE = 16  # controlled calls


@dataclass(frozen=True, eq=False)
class Control:
    """A ControlNet's part in one image.

    Attributes:
        name: of the ControlNet.
        image: uint8 [H, W, 3], what it is told.
        scale: of its residuals.
        start, end: the share of the steps from which, and to which, it acts.
        stale: its residuals are added a step late, so that nothing waits for them but the first.
        said: where it is stale, its answer in the step before, by whether it was to the negative prompt.
    """

    name: str
    image: np.ndarray
    scale: float = 1.0
    start: float = 0.0
    end: float = 1.0
    stale: bool = False
    said: dict[bool, Answer] = field(default_factory=dict)

    def acts(self, step: int, steps: int) -> bool:
        """Whether it does in a step, 0 to ``steps`` - 1; decided as diffusers does."""
        return not (step / steps < self.start or (step + 1) / steps > self.end)


@dataclass(frozen=True, eq=False)
class Controlling:
    """The ControlNets of a trajectory, and what ends when all of them are loaded; no step with one is made before."""

    controls: tuple[Control, ...]
    loaded: Future[None]


@dataclass(frozen=True, eq=False)
class Wanted:
    """What one row of a call wants: these controls act on it; ``negative``: it is the negative prompt's row."""

    controls: tuple[Control, ...]
    negative: bool


class ControlNets(Protocol):
    """All ControlNets that there are."""

    def __call__(self, name: str, rows: Rows, images: np.ndarray) -> Answer:
        """Begin to ask one for its residuals, float32 [b, R]; ``images``: uint8 [b, H, W, 3]."""


class Halves(Protocol):
    """A UNet in two graphs, each with a twin for rows with LoRAs."""

    def encode(self, rows: Rows, adapted: Adapted | None) -> Answer:
        """Begin the encoder: float32 [b, S], all that the decoder needs of it."""

    def decode(
        self, skips: np.ndarray, rows: Rows, residuals: np.ndarray, scales: np.ndarray, adapted: Adapted | None
    ) -> Answer:
        """Begin the decoder: float32 [b, C, h, w].

        Args:
            residuals: float32 [N, R], of all rows and ControlNets.
            scales: float32 [b, N], how strongly each row has each of them.
        """


class ControlledUNet:
    """The UNet for rows with ControlNets."""

    def __init__(self, halves: Halves, controlnets: ControlNets) -> None:
        self._halves, self._controlnets = halves, controlnets
        self._pool = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="controlled")

    def begin(self, rows: Rows, wanted: Sequence[Wanted], adapted: Adapted | None) -> Answer:
        """Begin a step: encoder and ControlNets at once, then the decoder. In a thread of its own, since the decoder
        has to be called when the others have answered, whoever waits for it."""
        return self._pool.submit(self._step, rows, wanted, adapted).result

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _step(self, rows: Rows, wanted: Sequence[Wanted], adapted: Adapted | None) -> np.ndarray:
        skips = self._halves.encode(rows, adapted)
        residuals, scales = self._ask(rows, wanted)
        encoded, *said = wait_for_all([skips, *residuals])
        return self._halves.decode(encoded, rows, np.stack(said), scales, adapted)()

    def _ask(self, rows: Rows, wanted: Sequence[Wanted]) -> tuple[list[Answer], np.ndarray]:
        """Begin to ask every ControlNet; what is to be added, each float32 [R], and the scales, float32 [b, N]."""
        pairs = [(row, control) for row, want in enumerate(wanted) for control in want.controls]
        fresh: dict[tuple[int, str], Answer] = {}
        for name in dict.fromkeys(control.name for _, control in pairs):
            asked = [(row, control) for row, control in pairs if control.name == name]
            places = np.array([row for row, _ in asked])
            answer = self._controlnets(name, rows[places], np.stack([control.image for _, control in asked]))
            fresh |= {(row, name): partial(_nth, answer, place) for place, row in enumerate(places)}
        scales = np.zeros((len(rows), len(pairs)), np.float32)
        scales[[row for row, _ in pairs], range(len(pairs))] = [control.scale for _, control in pairs]
        added = [_in_time(control, wanted[row].negative, fresh[row, control.name]) for row, control in pairs]
        return added, scales


def _in_time(control: Control, negative: bool, fresh: Answer) -> Answer:
    """What is added now: the fresh answer or, of a stale control, the one before."""
    if not control.stale:
        return fresh
    before, control.said[negative] = control.said.get(negative, fresh), fresh

    def answer() -> np.ndarray:
        try:
            return before()
        except Exception:  # lost; asking again would raise the same for ever
            return fresh()

    return answer


def _nth(answer: Answer, place: int) -> np.ndarray:
    said: np.ndarray = answer()[place]
    return said
