"""Random LoRAs for a served variant, as files that diffusers could have written."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from underpaint.addons.layout import Layer, LoraLayout

# Layers that diffusers has as convolutions, those of one pixel among them.
_CONVOLUTIONS = ("proj_in", "proj_out", "conv", "conv1", "conv2", "conv_shortcut")


def write_lora(
    folder: Path,
    repository: Path,
    name: str,
    seed: int = 0,
    rank: int = 4,
    strength: float = 0.3,
    wide: bool = False,
    with_text: bool = False,
    variant: str = "tiny-m",
) -> Path:
    """A LoRA for ``variant``, with convolutions too if it is ``wide``. ``strength``: about how far it moves a layer's
    output, in units of the input's."""
    draw = np.random.default_rng(seed)
    unet = LoraLayout.load(repository / f"{variant}_unet" / "1")
    tensors = _factors(draw, "unet.", unet.layers if wide else unet.layers[: unet.narrow], rank, strength)
    if with_text:
        text = LoraLayout.load(repository / f"{variant}_text_encoder" / "1")
        tensors |= _factors(draw, "text_encoder.text_model.", text.layers, rank, strength)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.safetensors"
    save_file(tensors, path, {"underpaint.base": variant})
    return path


def _factors(
    draw: np.random.Generator, prefix: str, layers: Sequence[Layer], rank: int, strength: float
) -> dict[str, np.ndarray]:
    tensors = {}
    for layer in layers:
        is_conv = layer.name.endswith(_CONVOLUTIONS)
        window, ones = ((layer.kernel, layer.kernel), (1, 1)) if is_conv else ((), ())
        down = draw.normal(size=(rank, layer.inputs, *window)) / np.sqrt(layer.down)
        up = draw.normal(size=(layer.outputs, rank, *ones)) * strength / np.sqrt(rank)
        tensors[f"{prefix}{layer.name}.lora_A.weight"] = down.astype(np.float32)
        tensors[f"{prefix}{layer.name}.lora_B.weight"] = up.astype(np.float32)
    return tensors
