"""``SanaTransformer2DModel``: SANA (arXiv 2410.10629)."""

from __future__ import annotations

from typing import ClassVar

import torch
from diffusers import SanaTransformer2DModel
from torch import nn
from torch.nn import functional as F

from underpaint.build.graph import Extent, Graph
from underpaint.build.linear_attention import attend

_KEPT_OUT = -10_000.0  # what diffusers adds to the attention that padding would get


class SanaGraph(Graph):
    """sample [B, C, h, w], timestep [B], encoder_hidden_states [B, T, D], encoder_attention_mask [B, T] (1: text, 0:
    padding) to noise_pred [B, C, h, w], the velocity of a rectified flow; a predicted variance is left out."""

    outputs = ("noise_pred",)
    free: ClassVar = {"sample": (2, 3), "noise_pred": (2, 3)}
    weights: SanaTransformer2DModel

    def __init__(self, weights: nn.Module, vae_scale_factor: int) -> None:
        super().__init__(weights)
        self.vae_scale_factor = vae_scale_factor
        self.patch_size = weights.config.patch_size
        for block in weights.transformer_blocks:
            block.attn1.set_processor(_LinearAttention())
            block.attn2.set_processor(_CrossAttention())

    def forward(
        self,
        sample: torch.Tensor,
        timestep: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        encoder_attention_mask: torch.Tensor,
    ) -> torch.Tensor:
        x, states = sample.to(self.dtype), encoder_hidden_states.to(self.dtype)
        bias = ((1 - encoder_attention_mask) * _KEPT_OUT)[:, None, None].to(self.dtype)  # [B, 1, 1, T]
        at = timestep * self.weights.config.timestep_scale
        velocity = self.weights(x, states, at, encoder_attention_mask=bias, return_dict=False)[0]
        return velocity[:, : self.weights.config.in_channels].float()

    def examples(self, extent: Extent) -> dict[str, torch.Tensor]:
        config, batch = self.weights.config, extent.batch
        height, width = extent.height // self.vae_scale_factor, extent.width // self.vae_scale_factor
        lengths = torch.linspace(1, extent.tokens, batch).long()
        return {
            "sample": torch.randn(batch, config.in_channels, height, width),
            "timestep": torch.linspace(999, 1, batch),
            "encoder_hidden_states": torch.randn(batch, extent.tokens, config.caption_channels),
            "encoder_attention_mask": (torch.arange(extent.tokens) < lengths[:, None]).float(),
        }


class _LinearAttention:
    """Attention among the latents, linear in their number."""

    def __call__(self, attn: nn.Module, latents: torch.Tensor, **_: object) -> torch.Tensor:
        query, key, value = (_heads(each, attn.heads).transpose(2, 3) for each in _projected(attn, latents, latents))
        attended = attend(query, key, value).transpose(2, 3).to(latents.dtype)
        return attn.to_out[0](_joined(attended))


class _CrossAttention:
    """Attention to the text: diffusers' processor, without its detour through a mask for every head and row, whose
    shape an exporter cannot follow. ``bias``: float32 [B, 1, 1, T]."""

    def __call__(
        self, attn: nn.Module, latents: torch.Tensor, encoder_hidden_states: torch.Tensor, attention_mask: torch.Tensor
    ) -> torch.Tensor:
        query, key, value = (_heads(each, attn.heads) for each in _projected(attn, latents, encoder_hidden_states))
        return attn.to_out[0](_joined(F.scaled_dot_product_attention(query, key, value, attn_mask=attention_mask)))


def _projected(
    attn: nn.Module, asking: torch.Tensor, asked: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Query, key and value, each [B, N, H · d]."""
    query, key, value = attn.to_q(asking), attn.to_k(asked), attn.to_v(asked)
    if attn.norm_q is not None:
        query, key = attn.norm_q(query), attn.norm_k(key)
    return query, key, value


def _heads(rows: torch.Tensor, heads: int) -> torch.Tensor:
    """[B, N, H · d] to [B, H, N, d]."""
    return rows.unflatten(2, (heads, -1)).transpose(1, 2)


def _joined(heads: torch.Tensor) -> torch.Tensor:
    """[B, H, N, d] to [B, N, H · d]."""
    return heads.transpose(1, 2).flatten(2)


GRAPH = SanaGraph
