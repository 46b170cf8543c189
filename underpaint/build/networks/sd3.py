"""``SD3Transformer2DModel``: Stable Diffusion 3 and 3.5 (arXiv 2403.03206)."""

from __future__ import annotations

from functools import partial
from typing import ClassVar

import torch
from diffusers import SD3Transformer2DModel
from torch import nn

from underpaint.build.graph import Extent, Graph


class SD3Graph(Graph):
    """sample [B, C, h, w], timestep [B], encoder_hidden_states [B, T, D], pooled_projections [B, P] to noise_pred
    [B, C, h, w], the velocity of a rectified flow.

    h and w are multiples of ``patch_size``, up to the side of the model's table of positions.
    """

    outputs = ("noise_pred",)
    free: ClassVar = {"sample": (2, 3), "noise_pred": (2, 3)}
    weights: SD3Transformer2DModel

    def __init__(self, weights: nn.Module, vae_scale_factor: int) -> None:
        super().__init__(weights)
        self.vae_scale_factor = vae_scale_factor
        self.patch_size = weights.config.patch_size
        weights.pos_embed.cropped_pos_embed = partial(_positions, weights.pos_embed)

    def forward(
        self,
        sample: torch.Tensor,
        timestep: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        pooled_projections: torch.Tensor,
    ) -> torch.Tensor:
        x, states, pooled = (each.to(self.dtype) for each in (sample, encoder_hidden_states, pooled_projections))
        return self.weights(x, states, pooled, timestep, return_dict=False)[0].float()

    def examples(self, extent: Extent) -> dict[str, torch.Tensor]:
        config, batch = self.weights.config, extent.batch
        height, width = extent.height // self.vae_scale_factor, extent.width // self.vae_scale_factor
        return {
            "sample": torch.randn(batch, config.in_channels, height, width),
            "timestep": torch.linspace(999, 1, batch),
            "encoder_hidden_states": torch.randn(batch, extent.tokens, config.joint_attention_dim),
            "pooled_projections": torch.randn(batch, config.pooled_projection_dim),
        }


def _positions(pos_embed: nn.Module, height: int, width: int) -> torch.Tensor:
    """The middle of the table of positions, [1, N, D]: what diffusers cuts out of it, gathered, because slices of a
    size that is open cannot be exported."""
    side, patch = pos_embed.pos_embed_max_size, pos_embed.patch_size
    rows = torch.arange(height // patch) + (side - height // patch) // 2
    columns = torch.arange(width // patch) + (side - width // patch) // 2
    table = pos_embed.pos_embed.reshape(side, side, -1)
    return table[rows][:, columns].flatten(0, 1)[None]


GRAPH = SD3Graph
