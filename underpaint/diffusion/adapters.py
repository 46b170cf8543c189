"""LoRAs while an image is denoised: what each row of a call carries, and how the call's rows share a bank.

A trajectory may begin without its adapters, while they are being loaded, and take them up at a step that was fixed
beforehand; so when they come does not change the image.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import groupby
from math import gcd

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

    ``bank``: float16 [G, R, width], the LoRAs of each group of rows, one under the other; ``scales``: float32 [G, R].
    """

    bank: np.ndarray
    scales: np.ndarray


def kin(adapters: Sequence[Adapter]) -> tuple[tuple[int, float], ...]:
    """Equal for rows that can be in one group, as long as their adapters live."""
    return tuple((id(adapter.factors), adapter.scale) for adapter in adapters)


class Banks:
    """Makes the banks of calls; remembers the last, since from step to step they rarely change."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[tuple[int, ...], ...], tuple[list[list[np.ndarray]], np.ndarray]] = OrderedDict()

    def of(self, rows: Sequence[Sequence[Adapter]]) -> Adapted:
        """For rows of which those with the same LoRAs stand side by side: in groups as large as they can be, which
        all have the same size."""
        size = gcd(*(len(list(run)) for _, run in groupby(rows, key=kin)))
        groups = rows[::size]
        bank = self._bank([[adapter.factors for adapter in group] for group in groups])
        scales = np.zeros(bank.shape[:2], np.float32)
        for place, group in enumerate(groups):
            of_each = [np.full(len(adapter.factors), adapter.scale, np.float32) for adapter in group]
            strengths = np.concatenate(of_each)
            scales[place, : len(strengths)] = strengths
        return Adapted(bank, scales)

    def _bank(self, groups: list[list[np.ndarray]]) -> np.ndarray:
        # What is kept holds its factors, so that an id stands for the same array as long as it is here.
        key = tuple(tuple(map(id, group)) for group in groups)
        _, bank = kept = self._kept.pop(key, None) or (groups, _stacked(groups))
        self._kept[key] = kept
        while len(self._kept) > _BANKS_KEPT:
            self._kept.popitem(last=False)
        return bank


def _stacked(groups: Sequence[Sequence[np.ndarray]]) -> np.ndarray:
    """Groups of smaller rank, and factors that end behind the first layers, are filled up with zeros."""
    rank = max(sum(map(len, group)) for group in groups)
    width = max(each.shape[1] for group in groups for each in group)
    bank = np.zeros((len(groups), rank, width), groups[0][0].dtype)
    for place, group in enumerate(groups):
        begin = 0
        for each in group:
            bank[place, begin : begin + len(each), : each.shape[1]] = each
            begin += len(each)
    return bank
