"""What a network is told beside sample and timestep: the text in the forms that its class takes, and, where guidance is
built into the weights, its scale."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

_INPUTS = {
    "embeds": "encoder_hidden_states",
    "pooled": "pooled_projections",
    "mask": "encoder_attention_mask",
    "guidance": "guidance",
}


@dataclass(frozen=True, eq=False)
class Conditioning:
    """Of one row, or, with an axis [b] in front of each, of b rows.

    Attributes:
        embeds: float32 [T, D], the text's hidden states.
        pooled: float32 [P], one vector for the whole text (SDXL, SD 3, FLUX).
        mask: [T], which of the T are text and not padding (SANA).
        guidance: float32 [], the scale, for weights that guidance is distilled into (FLUX).
    """

    embeds: np.ndarray
    pooled: np.ndarray | None = None
    mask: np.ndarray | None = None
    guidance: np.ndarray | None = None

    @classmethod
    def stack(cls, rows: Sequence[Conditioning]) -> Conditioning:
        """Rows of one variant, which all have the same parts."""
        present = [name for name in _INPUTS if getattr(rows[0], name) is not None]
        return cls(**{name: np.stack([getattr(row, name) for row in rows]) for name in present})

    def __getitem__(self, rows: np.ndarray) -> Conditioning:
        """Some of b rows, by their numbers."""
        present = [name for name in _INPUTS if getattr(self, name) is not None]
        return Conditioning(**{name: getattr(self, name)[rows] for name in present})

    def read_again(self, text: Conditioning) -> Conditioning:
        """The same, of a text that another encoder has read."""
        return replace(self, embeds=text.embeds, pooled=self.pooled if text.pooled is None else text.pooled)

    def inputs(self) -> dict[str, np.ndarray]:
        """By the names that they have as inputs of a network's graph."""
        parts = {name: getattr(self, part) for part, name in _INPUTS.items()}
        return {name: part for name, part in parts.items() if part is not None}
