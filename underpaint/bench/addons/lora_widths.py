"""``underpaint bench lora-widths``: what the LoRA twin of a UNet costs beside the UNet, by how wide the network is.

Networks of random weights, of the family's depth or less, in one process and one thread: so many rows in groups of two,
each group with a LoRA of its own for the layers of attention, the twin and the UNet in turn. ``arithmetic`` is the
least that has to be computed for the LoRAs, by the cheaper of the two ways of each layer (``build.lora_layers``), as a
share of what the UNet computes: what is above it is moving numbers about and small products.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from underpaint.addons.layout import LoraLayout

ROWS, RANK, TOKENS = 16, 16, 24
_OF_A_GROUP = 2


@dataclass(frozen=True)
class Width:
    """A network: channels by level, from the top, and the side of its latents."""

    channels: tuple[int, ...]
    side: int
    layers: int = 1


WIDTHS = (Width((64, 128), 8, 2), Width((160, 320), 8), Width((320, 640), 8))


@dataclass(frozen=True)
class Cost:
    """Medians of processor time, milliseconds a call; the shares are of the UNet's."""

    channels: tuple[int, ...]
    side: int
    unet_ms: float
    twin_ms: float
    arithmetic: float

    @property
    def overhead(self) -> float:
        return self.twin_ms / self.unet_ms - 1


def measure(width: Width, folder: Path, rounds: int) -> Cost:
    """Export the network and its twin into ``folder`` and run them in turn."""
    import torch

    from underpaint.build.graph import EXAMPLE_BATCH
    from underpaint.build.lora_twin import write_twins
    from underpaint.build.networks.unet import UNetGraph
    from underpaint.build.tiny.export import write_component

    torch.manual_seed(0)
    unet = _unet(width)
    inputs = {
        "sample": torch.randn(EXAMPLE_BATCH, 4, width.side, width.side),
        "timestep": torch.tensor([999.0, 500.0]),
        "encoder_hidden_states": torch.randn(EXAMPLE_BATCH, TOKENS, unet.config.cross_attention_dim),
    }

    graph, twins = partial(UNetGraph, vae_scale_factor=8), partial(write_twins, base="random", max_rank=RANK)
    write_component(folder, unet, graph, inputs, "noise_pred", twins)
    layout = LoraLayout.load(folder)
    rows = {name: np.concatenate([each.numpy()] * (ROWS // EXAMPLE_BATCH)) for name, each in inputs.items()}
    groups = ROWS // _OF_A_GROUP
    bank = np.random.default_rng(0).normal(0, 0.01, (groups, RANK, layout.narrow_width)).astype(np.float16)
    loras = {"lora_bank": bank, "lora_scales": np.full((groups, RANK), 0.8, np.float32)}
    plain, adapted = _session(folder / "model.onnx"), _session(folder / "lora.onnx")
    times = _in_turn([lambda: plain.run(None, rows), lambda: adapted.run(None, {**rows, **loras})], rounds)
    share = groups * _lora_products(layout, width) / (ROWS * _products(unet, inputs))
    unet_ms, twin_ms = (1e3 * median(each) for each in times)
    return Cost(width.channels, width.side, unet_ms, twin_ms, share)


def _unet(width: Width) -> Any:
    from diffusers import UNet2DConditionModel

    levels = len(width.channels)
    return UNet2DConditionModel(
        sample_size=width.side,
        in_channels=4,
        out_channels=4,
        block_out_channels=width.channels,
        down_block_types=("CrossAttnDownBlock2D",) * levels,
        up_block_types=("CrossAttnUpBlock2D",) * levels,
        layers_per_block=width.layers,
        cross_attention_dim=width.channels[0],
        attention_head_dim=tuple(max(1, channels // 40) for channels in width.channels),
        norm_num_groups=8,
    )


def _session(path: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _in_turn(calls: Sequence[Callable[[], object]], rounds: int) -> list[list[float]]:
    """Seconds of processor time of each; the first round does not count."""
    times: list[list[float]] = [[] for _ in calls]
    for number in range(rounds + 1):
        for call, mine in zip(calls, times, strict=True):
            began = time.process_time()
            call()
            if number:
                mine.append(time.process_time() - began)
    return times


def _lora_products(layout: LoraLayout, width: Width) -> float:
    """Multiplications for the LoRA of one group: merged, or projected, whichever is less, layer by layer."""
    total = 0
    for layer in layout.layers[: layout.narrow]:
        of_text = layer.name.endswith(("attn2.to_k", "attn2.to_v"))
        side = width.side >> _level(layer.name, len(width.channels))
        positions = _OF_A_GROUP * (TOKENS if of_text else side**2)
        total += RANK * min(positions * (layer.inputs + layer.outputs), layer.inputs * layer.outputs)
    return float(total)


def _level(name: str, levels: int) -> int:
    """How often the side has been halved where a layer is."""
    where, _, number = name.partition("_blocks.")
    if where not in ("down", "up"):
        return levels - 1  # the middle
    block = int(number.split(".")[0])
    return block if where == "down" else levels - 1 - block


def _products(unet: Any, inputs: Mapping[str, Any]) -> float:
    """Multiplications of a row, counted while torch runs it."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    row = [each[:1] for each in inputs.values()]
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        unet(*row)
    return counter.get_total_flops() / 2
