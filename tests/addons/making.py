"""LoRA files for tests, in the formats that are about, of a base with a linear layer and two convolutions."""

from __future__ import annotations

import numpy as np
from safetensors.numpy import save

from underpaint.addons.layout import Layer, LoraLayout

LAYERS = (
    Layer("mid_block.attn.to_q", 6, 4),
    Layer("mid_block.resnet.conv1", 3, 5, kernel=3),
    Layer("mid.proj_in", 3, 2),
)
UNET = LoraLayout("micro", max_rank=8, layers=LAYERS, narrow=1)
TEXT = LoraLayout("micro", max_rank=8, layers=(Layer("encoder.layers.0.self_attn.q_proj", 4, 4),), narrow=1)
LAYOUTS = {"unet": UNET, "text_encoder": TEXT}
KINDS = {  # prefix of the UNet, prefix of the text encoder, ends of down, up and alpha; Kohya has no dots in names
    "diffusers": ("unet.", "text_encoder.text_model.", ".lora_A.weight", ".lora_B.weight"),
    "old diffusers": ("unet.", "text_encoder.text_model.", ".lora.down.weight", ".lora.up.weight"),
    "peft": ("base_model.model.", "base_model.model.text_encoder.text_model.", ".lora_A.weight", ".lora_B.weight"),
    "kohya": ("lora_unet_", "lora_te_text_model_", ".lora_down.weight", ".lora_up.weight"),
}

Factors = dict[str, tuple[np.ndarray, np.ndarray]]


def factors(rank: int = 2, seed: int = 0, layers: tuple[Layer, ...] = LAYERS) -> Factors:
    """Down [r, in, k, k] and up [out, r] for every layer, as torch lays them out."""
    draw = np.random.default_rng(seed)
    return {
        layer.name: (
            draw.normal(size=(rank, layer.inputs, layer.kernel, layer.kernel)).astype(np.float32),
            draw.normal(size=(layer.outputs, rank)).astype(np.float32),
        )
        for layer in layers
    }


def lora_file(
    unet: Factors,
    text: Factors | None = None,
    kind: str = "diffusers",
    alpha: float | None = None,
    metadata: dict[str, str] | None = None,
) -> bytes:
    """The bytes of a safetensors file."""
    unet_prefix, text_prefix, down_end, up_end = KINDS[kind]
    tensors = {}
    for prefix, network in ((unet_prefix, unet), (text_prefix, text or {})):
        for name, (down, up) in network.items():
            stem = prefix + (name.replace(".", "_") if kind == "kohya" else name)
            is_conv = down.shape[-1] > 1 or "proj_in" in name
            tensors[stem + down_end] = np.ascontiguousarray(down if is_conv else down[:, :, 0, 0])
            tensors[stem + up_end] = np.ascontiguousarray(up[:, :, None, None] if is_conv else up)
            if alpha is not None:
                tensors[f"{stem}.alpha"] = np.array(alpha, np.float32)
    return save(tensors, metadata)
