"""LoRAs while an image is denoised: what each row of a call carries, and how the call's rows share a bank.

A trajectory may begin without its adapters, while they are being loaded, and take them up at a step that was fixed
beforehand; so when they come does not change the image.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass

import numpy as np

from underpaint.diffusion.conditioning import Conditioning

_BANKS_KEPT = 4  # the same requests meet in the next step


@dataclass(frozen=True, eq=False)
class Adapter:
    """The factors of a LoRA, float16 [rank, width] (see ``addons.layout``), and how strongly it is to act."""

    factors: np.ndarray
    scale: float


@dataclass(frozen=True, eq=False)
class Adaptation:
    """What joins a trajectory: LoRAs by name, their part in the UNet, and the texts as the text encoder reads them with
    these LoRAs; None where they do not change it."""

    names: tuple[str, ...]
    adapters: tuple[Adapter, ...]
    prompt: Conditioning | None = None
    negative_prompt: Conditioning | None = None


@dataclass(frozen=True, eq=False)
class Joining:
    """An adaptation on its way, and the step that is not taken without it."""

    step: int
    adaptation: Future[Adaptation]


@dataclass(frozen=True, eq=False)
class Adapted:
    """What a LoRA twin is called with beside its rows.

    ``bank``: float16 [L, rank, width], the distinct LoRAs; ``scales``: float32 [b, L].
    """

    bank: np.ndarray
    scales: np.ndarray


class Banks:
    """Makes the banks of calls; remembers the last, since from step to step they rarely change."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[int, ...], tuple[list[np.ndarray], np.ndarray]] = OrderedDict()

    def of(self, rows: Sequence[Sequence[Adapter]]) -> Adapted:
        """The distinct LoRAs of some rows, and which row has which how strongly."""
        distinct = {id(adapter.factors): adapter.factors for adapters in rows for adapter in adapters}
        places = {key: place for place, key in enumerate(distinct)}
        scales = np.zeros((len(rows), len(distinct)), np.float32)
        for row, adapters in enumerate(rows):
            for adapter in adapters:
                scales[row, places[id(adapter.factors)]] += adapter.scale
        return Adapted(self._bank(tuple(distinct), list(distinct.values())), scales)

    def _bank(self, key: tuple[int, ...], factors: list[np.ndarray]) -> np.ndarray:
        # What is kept holds its factors, so that an id stands for the same array as long as it is here.
        _, bank = kept = self._kept.pop(key, None) or (factors, _stacked(factors))
        self._kept[key] = kept
        while len(self._kept) > _BANKS_KEPT:
            self._kept.popitem(last=False)
        return bank


def _stacked(factors: Sequence[np.ndarray]) -> np.ndarray:
    """Smaller ranks, and those that end behind the first layers, are filled up with zeros."""
    rank, width = (max(each.shape[axis] for each in factors) for axis in (0, 1))
    bank = np.zeros((len(factors), rank, width), factors[0].dtype)
    for place, each in enumerate(factors):
        bank[place, : each.shape[0], : each.shape[1]] = each
    return bank
