"""``FluxTransformer2DModel``: FLUX.1."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from diffusers import FluxTransformer2DModel
from torch import nn

from underpaint.build.graph import Extent, Graph

_PATCH = 2  # diffusers' pipeline packs 2x2 latents into one token, with four times the channels


class FluxGraph(Graph):
    """sample [B, C, h, w], timestep [B], encoder_hidden_states [B, T, D], pooled_projections [B, P] and, where guidance
    is distilled into the weights, guidance [B] to noise_pred [B, C, h, w], the velocity of a rectified flow.

    h and w are even. What diffusers' pipeline does around its transformer is done in the graph: latents are packed into
    tokens, which are numbered by row and column (a token of text is at 0, 0), and unpacked again.
    """

    outputs = ("noise_pred",)
    free: ClassVar = {"sample": (2, 3), "noise_pred": (2, 3)}
    weights: FluxTransformer2DModel

    def __init__(self, weights: nn.Module, vae_scale_factor: int) -> None:
        super().__init__(weights)
        self.vae_scale_factor = vae_scale_factor
        self.patch_size = _PATCH
        weights.pos_embed = _RotaryEmbedding(weights.pos_embed.theta, weights.config.axes_dims_rope)

    def forward(
        self,
        sample: torch.Tensor,
        timestep: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        pooled_projections: torch.Tensor,
        guidance: torch.Tensor | None = None,
    ) -> torch.Tensor:
        height, width = sample.shape[2] // _PATCH, sample.shape[3] // _PATCH
        velocity = self.weights(
            _pack(sample).to(self.dtype),
            encoder_hidden_states.to(self.dtype),
            pooled_projections.to(self.dtype),
            timestep / 1000,
            img_ids=_positions(height, width),
            txt_ids=torch.zeros(encoder_hidden_states.shape[1], 3),
            guidance=guidance,
            return_dict=False,
        )[0]
        return _unpack(velocity, height, width).float()

    def examples(self, extent: Extent) -> dict[str, torch.Tensor]:
        config, batch = self.weights.config, extent.batch
        height, width = extent.height // self.vae_scale_factor, extent.width // self.vae_scale_factor
        inputs = {
            "sample": torch.randn(batch, config.in_channels // _PATCH**2, height, width),
            "timestep": torch.linspace(999, 1, batch),
            "encoder_hidden_states": torch.randn(batch, extent.tokens, config.joint_attention_dim),
            "pooled_projections": torch.randn(batch, config.pooled_projection_dim),
        }
        if config.guidance_embeds:
            inputs["guidance"] = torch.linspace(1, 5, batch)
        return inputs


class _RotaryEmbedding(nn.Module):
    """diffusers' ``FluxPosEmbed`` without float64, which TensorRT does not have: frequencies are rounded once.

    Positions stay below a few hundred, so that an angle is off by no more than 1e-5.
    """

    def __init__(self, theta: float, axes_dim: Sequence[int]) -> None:
        super().__init__()
        halves = [torch.arange(0, dim, 2, dtype=torch.float64) / dim for dim in axes_dim]
        axes = [torch.full_like(half, axis, dtype=torch.long) for axis, half in enumerate(halves)]
        self.register_buffer("frequencies", (theta ** -torch.cat(halves)).float(), persistent=False)
        self.register_buffer("axes", torch.cat(axes), persistent=False)

    def forward(self, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosines and sines, float32 [N, D], of ids [N, 3]."""
        angles = (ids[:, self.axes] * self.frequencies).repeat_interleave(2, dim=1)
        return angles.cos(), angles.sin()


def _pack(latents: torch.Tensor) -> torch.Tensor:
    """[B, C, h, w] to tokens [B, h/2 · w/2, 4C], each channel by channel."""
    batch, channels, height, width = latents.shape
    rows, columns = height // _PATCH, width // _PATCH
    patches = latents.reshape(batch, channels, rows, _PATCH, columns, _PATCH)
    return patches.permute(0, 2, 4, 1, 3, 5).reshape(batch, rows * columns, channels * _PATCH**2)


def _unpack(tokens: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """Tokens [B, rows · columns, 4C] to [B, C, 2 · rows, 2 · columns]."""
    batch, _, depth = tokens.shape
    channels = depth // _PATCH**2
    patches = tokens.reshape(batch, rows, columns, channels, _PATCH, _PATCH)
    return patches.permute(0, 3, 1, 4, 2, 5).reshape(batch, channels, rows * _PATCH, columns * _PATCH)


def _positions(rows: int, columns: int) -> torch.Tensor:
    """(0, row, column) of every token of the image, float32 [rows · columns, 3]."""
    row = torch.arange(rows)[:, None].expand(rows, columns)
    column = torch.arange(columns)[None, :].expand(rows, columns)
    return torch.stack([torch.zeros_like(row), row, column], dim=-1).reshape(-1, 3).float()


GRAPH = FluxGraph
