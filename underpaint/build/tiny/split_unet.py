"""The UNet in two halves, and ControlNets, as graphs (see ARCHITECTURE.md, "ControlNets run beside the encoder").

    encoder     sample, timestep, encoder_hidden_states                  -> skips [B, S]
    ControlNet  the same and control_image uint8 [B, H, W, 3]            -> residuals [B, R]
    decoder     skips, encoder_hidden_states, residuals [N, R], residual_scales [B, N] -> noise_pred

What passes from one to another is packed into one flat row each, since every tensor of a call between models costs
time: ``skips`` are the skip connections in the encoder's order, the middle block's output and the embedded timestep;
``residuals`` are a ControlNet's, in its own order, the middle's last. The decoder takes a bank of N residuals, those of
all rows and ControlNets one under the other, and how strongly each of its rows is to have each of them: so any number
of ControlNets is summed by one product of matrices, Σ sᵢrᵢ.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from diffusers import ControlNetModel, UNet2DConditionModel
from torch import nn

from underpaint.addons.layout import LoraLayout
from underpaint.addons.residuals import FILE_NAME as SHAPE_FILE
from underpaint.addons.residuals import EncoderShape, residual_places
from underpaint.build.lora_twin import write_part_twins
from underpaint.build.onnx_graph import write_graph

ENCODER, DECODER = "encoder", "decoder"
_CONTROLNETS = {0: "residuals"}


def write_halves(
    folder: Path, unet: UNet2DConditionModel, controlnet: ControlNetModel, sample: torch.Tensor, states: torch.Tensor
) -> None:
    """Write the halves of a UNet, and their LoRA twins, beside the weights that they share with it.

    Args:
        folder: a UNet's version directory, with the layout of its LoRAs.
        unet: what is in it.
        controlnet: any of the shape whose residuals the decoder is to take.
        sample, states: examples of a call, with more than one row.
    """
    timestep = torch.linspace(100.0, 900.0, len(sample))
    twins = partial(write_part_twins, layout=LoraLayout.load(folder))
    inputs = {"sample": sample, "timestep": timestep, "encoder_hidden_states": states}
    encoder = UNetEncoderGraph(unet).eval()
    write_graph(folder, encoder, inputs, "skips", partial(twins, part=ENCODER), f"{ENCODER}.onnx")
    with torch.no_grad():
        skips = encoder(*inputs.values())
    shape, side = EncoderShape.of(controlnet.config), unet.config.sample_size
    (folder / SHAPE_FILE).write_text(shape.to_json())
    shapes = shape.shapes(side, side)
    given = {
        "skips": skips,
        "encoder_hidden_states": states,
        "residuals": torch.randn(len(sample) + 1, sum(map(math.prod, [*shapes, shapes[-1]]))),
        "residual_scales": torch.randn(len(sample), len(sample) + 1),
    }
    axes = {"residuals": _CONTROLNETS, "residual_scales": {0: "batch", 1: "residuals"}}
    decoder = UNetDecoderGraph(unet, controlnet).eval()
    write_graph(folder, decoder, given, "noise_pred", partial(twins, part=DECODER), f"{DECODER}.onnx", axes)


class UNetEncoderGraph(nn.Module):
    """sample [B, C, h, w], timestep [B], encoder_hidden_states [B, T, D] to skips [B, S]."""

    def __init__(self, unet: UNet2DConditionModel) -> None:
        super().__init__()
        self.weights = unet

    def forward(self, sample: torch.Tensor, timestep: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
        unet = self.weights
        embedded = unet.time_embedding(unet.time_proj(timestep).to(sample.dtype))
        x = unet.conv_in(sample)
        skips = [x]
        for block in unet.down_blocks:
            x, passed = block(x, embedded, **_attended(block, states))
            skips += passed
        x = unet.mid_block(x, embedded, **_attended(unet.mid_block, states))
        return _packed([*skips, x, embedded])


class UNetDecoderGraph(nn.Module):
    """skips [B, S], encoder_hidden_states [B, T, D], residuals [N, R], residual_scales [B, N] to noise_pred
    [B, C, h, w]."""

    def __init__(self, unet: UNet2DConditionModel, controlnet: ControlNetModel) -> None:
        """``controlnet``: any of the shape whose residuals this decoder takes."""
        super().__init__()
        self.weights = unet
        side, shape = unet.config.sample_size, EncoderShape.of(unet.config)
        self._skips, self._embedded = shape.shapes(side, side), unet.time_embedding.linear_2.out_features
        self._places = residual_places(EncoderShape.of(controlnet.config), shape)

    def forward(
        self, skips: torch.Tensor, states: torch.Tensor, residuals: torch.Tensor, residual_scales: torch.Tensor
    ) -> torch.Tensor:
        unet = self.weights
        *passed, x, embedded = _unpacked(
            skips, [*self._skips, self._skips[-1], (unet.time_embedding.linear_2.out_features,)]
        )
        summed = _unpacked(residual_scales @ residuals, [self._skips[place] for place in (*self._places, -1)])
        for place, residual in zip(self._places, summed[:-1], strict=True):
            passed[place] = passed[place] + residual
        x = x + summed[-1]
        for block in unet.up_blocks:
            count = len(block.resnets)
            mine, passed = tuple(passed[-count:]), passed[:-count]
            x = block(hidden_states=x, temb=embedded, res_hidden_states_tuple=mine, **_attended(block, states))
        return unet.conv_out(unet.conv_act(unet.conv_norm_out(x)))


class ControlNetGraph(nn.Module):
    """sample [B, C, h, w], timestep [B], encoder_hidden_states [B, T, D], control_image uint8 [B, H, W, 3] to
    residuals [B, R]."""

    def __init__(self, controlnet: ControlNetModel) -> None:
        super().__init__()
        self.weights = controlnet

    def forward(
        self, sample: torch.Tensor, timestep: torch.Tensor, states: torch.Tensor, control_image: torch.Tensor
    ) -> torch.Tensor:
        condition = control_image.permute(0, 3, 1, 2).float() / 255  # as diffusers' pipelines show it
        down, middle = self.weights(sample, timestep, states, condition, return_dict=False)
        return _packed([*down, middle])


def _attended(block: nn.Module, states: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"encoder_hidden_states": states} if getattr(block, "has_cross_attention", False) else {}


def _packed(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    return torch.cat([tensor.flatten(1) for tensor in tensors], dim=1)


def _unpacked(packed: torch.Tensor, shapes: Sequence[tuple[int, ...]]) -> list[torch.Tensor]:
    parts = packed.split([math.prod(shape) for shape in shapes], dim=1)
    return [part.unflatten(1, shape) for part, shape in zip(parts, shapes, strict=True)]
