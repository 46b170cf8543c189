"""What is exported: a torch module whose forward is one of the contracts between Triton models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar

import torch
from torch import nn

EXAMPLE_BATCH = 2  # the exporter takes a batch of one for a constant


@dataclass(frozen=True)
class Extent:
    """How large the tensors of an example are: rows, pixels, and tokens that the network is told."""

    width: int
    height: int
    batch: int = EXAMPLE_BATCH
    tokens: int = 0


class Graph(nn.Module):
    """A diffusers or transformers module behind the names and dtypes of its contract.

    ``weights`` holds it, so that the graph's tensors have the module's own names behind that prefix. What travels is
    float32, whatever the weights are: a subclass casts on the way in (``self.dtype``) and out.

    Attributes:
        outputs: names of what forward returns, in order.
        free: for each input or output whose size follows the image's, its (height, width) axes.
        open: further axes of inputs that are not always as long, by name.
        patch_size: what the inputs' heights and widths have to be multiples of.
        dtype: of the weights.
    """

    outputs: ClassVar[tuple[str, ...]]
    free: ClassVar[Mapping[str, tuple[int, int]]] = {}
    open: Mapping[str, Mapping[int, str]] = MappingProxyType({})
    patch_size: int = 1

    def __init__(self, weights: nn.Module) -> None:
        super().__init__()
        self.weights = weights

    @property
    def dtype(self) -> torch.dtype:
        return next(self.weights.parameters()).dtype

    def examples(self, extent: Extent) -> dict[str, torch.Tensor]:
        """Random inputs by name, in forward's order."""
        raise NotImplementedError
