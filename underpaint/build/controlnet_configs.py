"""The config.pbtxt of what ControlNets need: themselves, and the halves of the UNets that they join in between.

They are loaded when a request first wants them (see ``triton.controlnet_service``), not when the server starts.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tritonclient.grpc.model_config_pb2 import ModelInput

from underpaint.addons.layout import LoraLayout
from underpaint.addons.residuals import EncoderShape
from underpaint.triton import model_config as mc

PREFIX = "controlnet_"
MODEL_CONTROL = "model_control"
HALVES = ("encoder", "decoder", "encoder_lora", "decoder_lora", "encoder_locon", "decoder_locon")
_EMBEDDED = 4  # the embedded timestep has this many times the channels of the first level


@dataclass(frozen=True)
class Controlled:
    """A variant that takes ControlNets: how its tensors are declared, and how its UNet is run.

    ``latents`` [C, h, w], ``embeds`` [T, D], ``pixels`` [H, W, 3].
    """

    variant: str
    latents: Sequence[int]
    embeds: Sequence[int]
    pixels: Sequence[int]
    instances: int
    threads: int
    max_rows: int

    @property
    def unet(self) -> str:
        return f"{self.variant}_unet"

    @property
    def halves(self) -> list[str]:
        """The models of its UNet's halves: encoder, decoder, and both for rows with LoRAs of attention, and
        with any."""
        return [f"{self.unet}_{half}" for half in HALVES]


def halves(controlled: Controlled, repository: Path) -> Iterator[mc.ModelConfig]:
    """They stand beside the weights that they share with the UNet, as its LoRA twins do, and have no batch dimension
    in Triton's sense either, since there are as many residuals as ControlNets want."""
    folder = repository / controlled.unet / "1"
    skips, noise = [-1, _skips_width(controlled, folder)], [-1, *controlled.latents]
    states = mc.model_input("encoder_hidden_states", "FP32", [-1, *controlled.embeds])
    encoder = [mc.model_input("sample", "FP32", noise), mc.model_input("timestep", "FP32", [-1]), states]
    decoder = [
        mc.model_input("skips", "FP32", skips),
        states,
        mc.model_input("residuals", "FP32", [-1, _residuals_width(controlled, folder)]),
        mc.model_input("residual_scales", "FP32", [-1, -1]),
    ]
    layout = LoraLayout.load(folder)
    banks = {"lora": _bank(layout.narrow_width), "locon": _bank(layout.width)}
    for half in HALVES:
        inputs, outputs = (
            (encoder, [mc.model_output("skips", "FP32", skips)])
            if half.startswith("encoder")
            else (decoder, [mc.model_output("noise_pred", "FP32", noise)])
        )
        yield mc.onnx_model(
            f"{controlled.unet}_{half}",
            [*inputs, *banks.get(half.rpartition("_")[2], [])],
            outputs,
            0,
            1 if half.endswith("_locon") else controlled.instances,  # rarer, and slow to load
            controlled.threads,
            dynamic_batching=False,
            model_file=f"../../{controlled.unet}/1/{half}.onnx",
            on_demand=True,
        )


def _bank(width: int) -> list[ModelInput]:
    return [mc.model_input("lora_bank", "FP16", [-1, -1, width]), mc.model_input("lora_scales", "FP32", [-1, -1])]


def controlnets(controlled: Controlled, repository: Path) -> Iterator[mc.ModelConfig]:
    """Every ControlNet that lies in the repository."""
    for path in sorted(repository.glob(f"{PREFIX}*/1/config.json")):
        yield controlnet(path.parents[1].name, controlled, repository)


def controlnet(model: str, controlled: Controlled, repository: Path) -> mc.ModelConfig:
    """One of them. It is called with the rows of many requests at once; where two calls meet, Triton joins them."""
    width = _residuals_width(controlled, repository / controlled.unet / "1")
    inputs = [
        mc.model_input("sample", "FP32", controlled.latents),
        mc.scalar_per_row("timestep", "FP32"),
        mc.model_input("encoder_hidden_states", "FP32", controlled.embeds),
        mc.model_input("control_image", "UINT8", controlled.pixels),
    ]
    outputs = [mc.model_output("residuals", "FP32", [width])]
    return mc.onnx_model(model, inputs, outputs, controlled.max_rows, threads=controlled.threads, on_demand=True)


def model_control() -> mc.ModelConfig:
    """Who loads them."""
    names = [mc.model_input(name, "STRING", [1]) for name in ("op", "model")]
    return mc.python_model(MODEL_CONTROL, names, [mc.model_output("model", "STRING", [1])])


def _skips_width(controlled: Controlled, folder: Path) -> int:
    """Numbers in a row of packed skips: those of every skip, of the middle block, and the embedded timestep."""
    shape = EncoderShape.of(json.loads((folder / "config.json").read_text()))
    return _packed(shape, controlled) + _EMBEDDED * shape.block_out_channels[0]


def _residuals_width(controlled: Controlled, folder: Path) -> int:
    return _packed(EncoderShape.load(folder), controlled)


def _packed(shape: EncoderShape, controlled: Controlled) -> int:
    _, height, width = controlled.latents
    shapes = shape.shapes(height, width)
    return sum(math.prod(each) for each in (*shapes, shapes[-1]))
