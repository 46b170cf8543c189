"""What a LoRA twin takes: which layers can be adapted, and where each has its place in the bank.

A LoRA changes a layer's weight by a product of two thin matrices, up · down; each of its ``rank`` components is one row
of ``down`` and one column of ``up``. The bank holds, for each component, the rows and columns of all layers one behind
the other, float16 [LoRAs, rank, width]: so a graph finds a layer by slicing the last axis, whatever the rank, and LoRAs
of smaller rank are filled up with zeros.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from underpaint.errors import NotFound

FILE_NAME = "lora_layout.json"
BANK_DTYPE = "float16"  # what LoRAs are published in; half of what has to travel with every step


@dataclass(frozen=True)
class Layer:
    """A linear layer (``kernel`` 1, as 1x1 convolutions are) or a convolution of ``kernel`` by ``kernel``.

    ``name`` as diffusers and transformers say it; ``inputs`` and ``outputs`` are features or channels.
    """

    name: str
    inputs: int
    outputs: int
    kernel: int = 1

    @property
    def down(self) -> int:
        """Numbers in one row of the down matrix, which reads a whole window: kernel · kernel · inputs."""
        return self.kernel * self.kernel * self.inputs


@dataclass(frozen=True)
class LoraLayout:
    """The layers of one network that can be adapted, in the order of the bank, and the largest rank that it takes.

    The first ``narrow`` layers, those of attention, are all that most LoRAs change; a bank may end behind them.
    """

    base: str
    max_rank: int
    layers: tuple[Layer, ...]
    narrow: int

    @property
    def width(self) -> int:
        """Numbers that one component takes in the bank."""
        return sum(layer.down + layer.outputs for layer in self.layers)

    @property
    def narrow_width(self) -> int:
        """The same for the first layers alone."""
        return sum(layer.down + layer.outputs for layer in self.layers[: self.narrow])

    @cached_property
    def offsets(self) -> Mapping[str, int]:
        """Where each layer begins: first its part of ``down``, then its part of ``up``."""
        offsets, end = {}, 0
        for layer in self.layers:
            offsets[layer.name] = end
            end += layer.down + layer.outputs
        return offsets

    @cached_property
    def by_name(self) -> Mapping[str, Layer]:
        return {layer.name: layer for layer in self.layers}

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1) + "\n"

    @classmethod
    def load(cls, folder: Path) -> LoraLayout:
        """Read ``lora_layout.json`` from a twin's version directory. Raises NotFound where there is none."""
        path = folder / FILE_NAME
        if not path.is_file():
            raise NotFound(f"{path} is missing: export the family with its LoRA twins, or fetch it whole")
        raw: dict[str, Any] = json.loads(path.read_text())
        return cls(raw["base"], raw["max_rank"], tuple(Layer(**layer) for layer in raw["layers"]), raw["narrow"])
