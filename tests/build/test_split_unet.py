"""The halves of a UNet: together, and with what ControlNets say, what diffusers' UNet is."""

from __future__ import annotations

import dataclasses
import json
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from diffusers import ControlNetModel, UNet2DConditionModel

from underpaint.addons.layout import LoraLayout
from underpaint.addons.residuals import EncoderShape, residual_places
from underpaint.build.lora_twin import write_twins
from underpaint.build.tiny import split_unet
from underpaint.build.tiny.architectures import TINY_L, TOKENS, build_controlnet, build_unet
from underpaint.build.tiny.export import UNetGraph, write_component

SMALL = dataclasses.replace(
    TINY_L, unet_channels=(16, 32), text_width=16, layers_per_block=(2, 1), attention_levels=(False, True)
)
SHALLOW = dataclasses.replace(SMALL, layers_per_block=(1, 1))
ROWS = 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A UNet with its LoRA twins and halves, random weights."""
    torch.manual_seed(0)
    made, (sample, timestep, states) = tmp_path_factory.mktemp("unet"), rows()
    inputs = {"sample": sample, "timestep": timestep, "encoder_hidden_states": states}
    graph = partial(UNetGraph, vae_scale_factor=8)
    write_component(
        made, build_unet(SMALL), graph, inputs, "noise_pred", partial(write_twins, base="small", max_rank=4)
    )
    split_unet.write_halves(made, load_unet(made), controlnet(), sample, states)
    return made


def load_unet(folder: Path) -> UNet2DConditionModel:
    return UNet2DConditionModel.from_pretrained(folder, torch_dtype=torch.float32).eval()


def controlnet() -> ControlNetModel:
    """One that says something."""
    torch.manual_seed(1)
    made = build_controlnet(build_unet(SHALLOW)).eval()
    for weight in (*made.controlnet_down_blocks.parameters(), *made.controlnet_mid_block.parameters()):
        torch.nn.init.normal_(weight, std=0.1)
    return made


def rows() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    side = SMALL.autoencoder.latent_side
    sample = torch.randn(ROWS, SMALL.autoencoder.latent_channels, side, side, generator=generator)
    states = torch.randn(ROWS, TOKENS, SMALL.text_width, generator=generator)
    return sample, torch.tensor([50.0, 500.0, 900.0]), states


def run(folder: Path, file_name: str, **inputs: np.ndarray) -> np.ndarray:
    (output,) = onnxruntime.InferenceSession(folder / file_name).run(None, inputs)
    return np.asarray(output)


def halves(folder: Path, residuals: np.ndarray, scales: np.ndarray, **bank: np.ndarray) -> np.ndarray:
    sample, timestep, states = (each.numpy() for each in rows())
    twin = ""
    if bank:
        narrow = bank["lora_bank"].shape[2] == LoraLayout.load(folder).narrow_width
        twin = "_lora" if narrow else "_locon"
    skips = run(folder, f"encoder{twin}.onnx", sample=sample, timestep=timestep, encoder_hidden_states=states, **bank)
    added = {"residuals": residuals, "residual_scales": scales}
    return run(folder, f"decoder{twin}.onnx", skips=skips, encoder_hidden_states=states, **added, **bank)


@torch.no_grad()
def said() -> tuple[list[torch.Tensor], torch.Tensor, np.ndarray]:
    """A ControlNet's residuals, one by one and packed."""
    image = torch.arange(ROWS * 64 * 64 * 3).reshape(ROWS, 64, 64, 3).remainder(256).to(torch.uint8)
    packed = split_unet.ControlNetGraph(controlnet())(*rows(), image)
    down, middle = controlnet()(*rows(), image.permute(0, 3, 1, 2) / 255, return_dict=False)
    return down, middle, packed.numpy()


@torch.no_grad()
def test_the_halves_with_residuals_are_what_diffusers_does_with_them(folder: Path) -> None:
    unet, (down, middle, packed) = load_unet(folder), said()
    shape = EncoderShape.of(unet.config)
    skips: list[torch.Tensor] = [torch.zeros(())] * len(shape.skips)
    for place, residual in zip(residual_places(EncoderShape.of(controlnet().config), shape), down, strict=True):
        skips[place] = 0.7 * residual
    added = {"down_block_additional_residuals": skips, "mid_block_additional_residual": 0.7 * middle}
    expected = unet(*rows(), **added).sample.numpy()
    np.testing.assert_allclose(halves(folder, packed, 0.7 * np.eye(ROWS, dtype=np.float32)), expected, atol=1e-4)
    assert np.abs(expected - unet(*rows()).sample.numpy()).max() > 0.05


def test_residuals_of_many_are_summed_for_each_row(folder: Path) -> None:
    _, _, packed = said()
    twice = np.concatenate([packed, packed[::-1]])
    scales = np.zeros((ROWS, 2 * ROWS), np.float32)
    scales[0, [0, 5]], scales[2, 2] = (0.25, 0.5), 1.0  # the sixth is the first again; the row between has none
    once = np.diag([0.75, 0.0, 1.0]).astype(np.float32)
    np.testing.assert_allclose(halves(folder, twice, scales), halves(folder, packed, once), atol=1e-5)


@pytest.mark.parametrize("graph", ["lora.onnx", "locon.onnx"])
def test_their_twins_are_the_twin_of_the_whole(folder: Path, graph: str) -> None:
    _, _, packed = said()
    layout, draw = LoraLayout.load(folder), np.random.default_rng(0)
    width = layout.narrow_width if graph == "lora.onnx" else layout.width
    bank = (0.2 * draw.normal(size=(ROWS, 4, width))).astype(np.float16)
    loras = {"lora_bank": bank, "lora_scales": np.repeat([[1.0], [0.5], [-0.3]], 4, axis=1).astype(np.float32)}
    sample, timestep, states = (each.numpy() for each in rows())
    whole = run(folder, graph, sample=sample, timestep=timestep, encoder_hidden_states=states, **loras)
    np.testing.assert_allclose(halves(folder, packed, np.zeros((ROWS, ROWS), np.float32), **loras), whole, atol=1e-4)


def test_what_fits_is_written_beside_the_weights(folder: Path) -> None:
    assert EncoderShape.load(folder) == EncoderShape.of(controlnet().config)
    assert json.loads((folder / "controlnet_shape.json").read_text())["layers_per_block"] == [1, 1]
