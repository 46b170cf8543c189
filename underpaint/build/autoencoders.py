"""Autoencoders as graphs: from pixels as they are shown to latents as they are denoised, and back.

The contract: ``image`` uint8 [B, H, W, 3] to ``latents`` float32 [B, C, h, w], scaled and shifted as the networks want
them (diffusers' ``scaling_factor`` and ``shift_factor``); and from these latents to ``image``. Of an encoder that gives
a distribution the most likely latents are taken, so that an image has one place in latent space.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import nn

from underpaint.build.graph import Extent, Graph
from underpaint.build.linear_attention import settle_linear_attention
from underpaint.build.shapes import vae_scale_factor
from underpaint.errors import InvalidArgument

# What each class's encode returns, as latents.
_LATENTS: dict[str, Callable[[Any], torch.Tensor]] = {
    "AutoencoderKL": lambda encoded: encoded.latent_dist.mode(),
    "AutoencoderTiny": lambda encoded: encoded.latents,
    "AutoencoderDC": lambda encoded: encoded.latent,
}


class _Autoencoder(Graph):
    def __init__(self, weights: nn.Module) -> None:
        super().__init__(weights)
        if type(weights).__name__ not in _LATENTS:
            raise InvalidArgument.of("autoencoder", type(weights).__name__, ", ".join(_LATENTS))
        settle_linear_attention(weights)
        config: Any = weights.config
        self.scaling_factor = config.scaling_factor
        self.shift_factor = config.get("shift_factor") or 0.0
        self.latent_channels = config.latent_channels
        self.scale_factor = vae_scale_factor(config)


class EncoderGraph(_Autoencoder):
    """image uint8 [B, H, W, 3] to latents [B, C, h, w]."""

    outputs = ("latents",)
    free: ClassVar = {"image": (1, 2), "latents": (2, 3)}

    def __init__(self, weights: nn.Module) -> None:
        super().__init__(weights)
        self.patch_size = self.scale_factor

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        encoded = self.weights.encode(normalise(image).to(self.dtype))
        latents = _LATENTS[type(self.weights).__name__](encoded).float()
        return (latents - self.shift_factor) * self.scaling_factor

    def examples(self, extent: Extent) -> dict[str, torch.Tensor]:
        return {"image": torch.randint(0, 256, (extent.batch, extent.height, extent.width, 3)).to(torch.uint8)}


class DecoderGraph(_Autoencoder):
    """latents [B, C, h, w] to image uint8 [B, H, W, 3]."""

    outputs = ("image",)
    free: ClassVar = {"latents": (2, 3), "image": (1, 2)}

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        unscaled = latents / self.scaling_factor + self.shift_factor
        return denormalise(self.weights.decode(unscaled.to(self.dtype), return_dict=False)[0].float())

    def examples(self, extent: Extent) -> dict[str, torch.Tensor]:
        height, width = extent.height // self.scale_factor, extent.width // self.scale_factor
        return {"latents": torch.randn(extent.batch, self.latent_channels, height, width)}


def normalise(images: torch.Tensor) -> torch.Tensor:
    """uint8 [B, H, W, 3] to float32 [B, 3, H, W] in [-1, 1], as diffusers' VaeImageProcessor does.

    Cast first, here, and last, below: to do anything else with a uint8 is not in TensorRT.
    """
    return images.float().permute(0, 3, 1, 2) / 127.5 - 1


def denormalise(images: torch.Tensor) -> torch.Tensor:
    """float [B, 3, H, W] in [-1, 1] to uint8 [B, H, W, 3], as diffusers' VaeImageProcessor does."""
    scaled = (images / 2 + 0.5).clamp(0, 1) * 255
    return scaled.round().permute(0, 2, 3, 1).to(torch.uint8)
