"""``UNet2DConditionModel``: Stable Diffusion 1 and 2, SDXL, and the tiny family."""

from __future__ import annotations

from typing import ClassVar

import torch
from diffusers import UNet2DConditionModel
from torch import nn

from underpaint.build.graph import Extent, Graph


class UNetGraph(Graph):
    """sample [B, C, h, w], timestep [B], encoder_hidden_states [B, T, D] to noise_pred [B, C, h, w].

    Where the class conditions on sizes too (``addition_embed_type`` "text_time", SDXL), also pooled_projections [B, P].
    The six numbers of ``time_ids`` (original size, crop, target size; arXiv 2307.01952, section 2.2) are made of the
    sample's shape as diffusers' pipeline makes them of the image's: nothing is cropped or scaled.
    """

    outputs = ("noise_pred",)
    free: ClassVar = {"sample": (2, 3), "noise_pred": (2, 3)}
    weights: UNet2DConditionModel

    def __init__(self, weights: nn.Module, vae_scale_factor: int) -> None:
        super().__init__(weights)
        self.vae_scale_factor = vae_scale_factor
        self.patch_size = 2 ** (len(weights.config.block_out_channels) - 1)

    @property
    def is_told_sizes(self) -> bool:
        return self.weights.config.addition_embed_type == "text_time"

    def forward(
        self,
        sample: torch.Tensor,
        timestep: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        pooled_projections: torch.Tensor | None = None,
    ) -> torch.Tensor:
        more = None
        if pooled_projections is not None:
            # As float32: diffusers joins it with embedded sizes, which are, and the exporter lets types of both stand.
            more = {"text_embeds": pooled_projections, "time_ids": self._time_ids(sample)}
        states = encoder_hidden_states.to(self.dtype)
        x = sample.to(self.dtype)
        return self.weights(x, timestep, states, added_cond_kwargs=more, return_dict=False)[0].float()

    def _time_ids(self, sample: torch.Tensor) -> torch.Tensor:
        """[B, 6]: height, width, 0, 0, height, width, in pixels."""
        size = torch.tensor([sample.shape[2], sample.shape[3]]) * self.vae_scale_factor
        ids = torch.cat([size, torch.zeros_like(size), size])
        return ids.to(self.dtype).expand(sample.shape[0], 6)

    def examples(self, extent: Extent) -> dict[str, torch.Tensor]:
        config, batch = self.weights.config, extent.batch
        height, width = extent.height // self.vae_scale_factor, extent.width // self.vae_scale_factor
        inputs = {
            "sample": torch.randn(batch, config.in_channels, height, width),
            "timestep": torch.linspace(999, 1, batch),
            "encoder_hidden_states": torch.randn(batch, extent.tokens, config.cross_attention_dim),
        }
        if self.is_told_sizes:
            pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
            inputs["pooled_projections"] = torch.randn(batch, pooled)
        return inputs


GRAPH = UNetGraph
