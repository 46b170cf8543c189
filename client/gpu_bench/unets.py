"""Denoising UNets of Stable Diffusion 1.5's and SDXL's size with random weights, and miniatures of both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from underpaint.build.export import Sizes, export
from underpaint.build.graph import Extent
from underpaint.build.graph_fusions import FOR_CPU, FOR_GPU
from underpaint.build.networks.unet import UNetGraph

_PIXELS = 8  # of a latent, in each direction
_DOWN, _UP = "CrossAttnDownBlock2D", "CrossAttnUpBlock2D"


@dataclass(frozen=True)
class Architecture:
    """What diffusers makes a UNet of; ``tokens``: how many it is told. Numbers of the published configs."""

    name: str
    tokens: int
    config: dict[str, Any]


SD15 = Architecture("sd15", 77, {"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8})
SDXL = Architecture(
    "sdxl",
    77,
    {
        "sample_size": 128,
        "cross_attention_dim": 2048,
        "attention_head_dim": (5, 10, 20),
        "block_out_channels": (320, 640, 1280),
        "down_block_types": ("DownBlock2D", _DOWN, _DOWN),
        "up_block_types": (_UP, _UP, "UpBlock2D"),
        "transformer_layers_per_block": (1, 2, 10),
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    },
)
_SMALL = {"block_out_channels": (32, 64), "attention_head_dim": 4, "cross_attention_dim": 32, "layers_per_block": 1}
_TWO = {"down_block_types": ("DownBlock2D", _DOWN), "up_block_types": (_UP, "UpBlock2D"), "norm_num_groups": 8}
MINIATURES = (
    Architecture("sd15", 7, {"sample_size": 8, **_SMALL, **_TWO}),
    Architecture(
        "sdxl",
        7,
        {
            **{"sample_size": 8, **_SMALL, **_TWO},
            **{"addition_embed_type": "text_time", "addition_time_embed_dim": 8},
            **{"projection_class_embeddings_input_dim": 64, "use_linear_projection": True},
        },
    ),
)


def make(architecture: Architecture, device: str) -> UNetGraph:
    """A UNet with random weights, drawn on the device; half precision on a GPU."""
    torch.manual_seed(0)
    with torch.device(device):
        unet = UNet2DConditionModel(in_channels=4, out_channels=4, **architecture.config).eval()
    return UNetGraph(unet.to(torch.float16 if device == "cuda" else torch.float32), _PIXELS).eval()


def inputs(graph: UNetGraph, architecture: Architecture, size: int, batch: int) -> dict[str, torch.Tensor]:
    """Random inputs of a square image of ``size`` pixels, float32 on the CPU."""
    return graph.examples(Extent(size, size, batch=batch, tokens=architecture.tokens))


def flop(graph: UNetGraph, given: Mapping[str, torch.Tensor], device: str) -> int:
    """Of one call, counted by torch; attention as the products that it consists of."""
    with torch.inference_mode(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        graph(*(tensor.to(device) for tensor in given.values()))
    return int(counter.get_total_flops())


def to_onnx(graph: UNetGraph, architecture: Architecture, sizes: Sequence[int], folder: Path) -> Path:
    """As ``underpaint build`` exports it for a GPU, for all sizes and any batch. The network is on the CPU then."""
    on_gpu = next(graph.parameters()).is_cuda
    squares = Sizes(tuple((size, size) for size in sizes), _PIXELS)
    export(graph.cpu(), folder, squares, architecture.tokens, rewrites=FOR_GPU if on_gpu else FOR_CPU)
    return folder / "model.onnx"
