"""The family's ControlNets in diffusers' own pipelines, which know none with fewer layers than the UNet."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import ControlNetModel

from underpaint.addons.residuals import EncoderShape, residual_places


class SpreadControlNet(ControlNetModel):
    """diffusers' class, whose residuals are put where our decoder adds them, with zeros in the other places."""

    unet: EncoderShape

    @classmethod
    def load(cls, folder: Path, unet: EncoderShape) -> SpreadControlNet:
        loaded: SpreadControlNet = cls.from_pretrained(folder, torch_dtype=torch.float32).eval()
        loaded.unet = unet
        return loaded

    def forward(self, *args: Any, **kwargs: Any) -> tuple[list[torch.Tensor], torch.Tensor]:
        down, middle = super().forward(*args, **{**kwargs, "return_dict": False})
        spread = [torch.zeros(()) for _ in self.unet.skips]
        for place, residual in zip(residual_places(EncoderShape.of(self.config), self.unet), down, strict=True):
            spread[place] = residual
        return spread, middle
