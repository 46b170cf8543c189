"""From checkpoints to version directories, each a diffusers or transformers folder and a Triton version.

    <variant>_unet/1/            config.json, diffusion_pytorch_model.safetensors, model.onnx, its LoRA twins and halves
    <variant>_text_encoder/1/    config.json, model.safetensors, model.onnx and its LoRA twin
    <variant>_vae_encoder/1/     the whole AutoencoderTiny and the graph of its encoder
    <variant>_vae_decoder/1/     the whole AutoencoderTiny and the graph of its decoder
    <variant>_denoiser/1/        scheduler_config.json
    controlnet_<name>/1/         config.json, diffusion_pytorch_model.safetensors, model.onnx
    embed_text/1/, embed_image/1/    the towers of the family's CLIP, each config.json, model.safetensors, model.onnx
    tiny_tokenizer/1/            written by `tokenizer`

Weights exist once, as float16 in the safetensors file; `model.onnx` points into it (see `onnx_graph`).
"""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderTiny, ControlNetModel, UNet2DConditionModel
from onnx import ModelProto
from torch import nn
from torch.nn import functional as F
from transformers import CLIPModel, CLIPTextModel, CLIPTextModelWithProjection, CLIPVisionModelWithProjection

from underpaint.build.autoencoders import DecoderGraph, EncoderGraph, normalise
from underpaint.build.graph import EXAMPLE_BATCH
from underpaint.build.lora_twin import write_twins
from underpaint.build.networks.unet import UNetGraph
from underpaint.build.onnx_graph import write_graph
from underpaint.build.text.clip import ClipTextGraph
from underpaint.build.tiny import checkpoints
from underpaint.build.tiny.architectures import (
    TOKENS,
    VariantShape,
    build_autoencoder,
    build_controlnet,
    build_scheduler,
    build_text_encoder,
    build_unet,
    controlled_unet,
)
from underpaint.build.tiny.scenes import SIDE
from underpaint.build.tiny.split_unet import ControlNetGraph, write_halves
from underpaint.build.tiny.tokenizer import load_tokenizer

log = logging.getLogger(__name__)

LORA_BASES = ("tiny-m", "tiny-l")  # whose UNet and text encoder get LoRA twins
CONTROLNET_BASES = ("tiny-l",)  # whose UNet gets halves, for ControlNets to join in between
MAX_RANK = 32  # of a LoRA
_IDS = {"input_ids": torch.ones(EXAMPLE_BATCH, TOKENS).int()}
_IMAGE = {"image": torch.zeros(EXAMPLE_BATCH, SIDE, SIDE, 3).to(torch.uint8)}


@dataclass(frozen=True)
class Variant:
    """The networks of one variant, float32."""

    unet: UNet2DConditionModel
    text_encoder: CLIPTextModel
    autoencoder: AutoencoderTiny


class TextEmbedderGraph(nn.Module):
    """input_ids int32 [B, 24] to embedding [B, D], of unit length."""

    def __init__(self, tower: CLIPTextModelWithProjection) -> None:
        super().__init__()
        self.weights = tower

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        return F.normalize(self.weights(input_ids.long()).text_embeds, dim=-1)


class ImageEmbedderGraph(nn.Module):
    """image uint8 [B, 64, 64, 3] to embedding [B, D], of unit length."""

    def __init__(self, tower: CLIPVisionModelWithProjection) -> None:
        super().__init__()
        self.weights = tower

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return F.normalize(self.weights(normalise(image)).image_embeds, dim=-1)


def tokenizer_folder(repository: Path) -> Path:
    return repository / "tiny_tokenizer" / "1"


def version_folder(repository: Path, shape: VariantShape, component: str) -> Path:
    return repository / f"{shape.name}_{component}" / "1"


def load_checkpoints(shape: VariantShape, out: Path, vocabulary: int) -> Variant:
    """The averaged weights of a training run; parts that have no checkpoint keep random weights."""
    torch.manual_seed(0)
    unet, text_encoder = build_unet(shape), build_text_encoder(shape, vocabulary, vocabulary - 1)
    saved = checkpoints.load(out / f"{shape.name}.pt")
    if saved is None:
        log.warning("%s: no checkpoint in %s, exporting random weights", shape.name, out)
    else:
        networks = nn.ModuleDict({"text_encoder": text_encoder, "unet": unet})
        networks.load_state_dict({name: saved["average"][name] for name in networks.state_dict()})  # no reader
    trained = out / shape.autoencoder.name
    if not trained.exists():
        log.warning("%s: no autoencoder in %s, exporting random weights", shape.name, out)
        return Variant(unet, text_encoder, build_autoencoder(shape.autoencoder))
    return Variant(unet, text_encoder, AutoencoderTiny.from_pretrained(trained))


def export_variant(shape: VariantShape, out: Path, repository: Path) -> None:
    """Write every component of a variant; the tokenizer must be there already."""
    vocabulary = len(load_tokenizer(tokenizer_folder(repository)))
    write_variant(shape, load_checkpoints(shape, out, vocabulary), repository)


def write_variant(shape: VariantShape, variant: Variant, repository: Path) -> None:
    width, latents = shape.text_width, example_latents(shape)
    states = torch.randn(EXAMPLE_BATCH, TOKENS, width)
    timestep = torch.tensor([999.0, 500.0])
    folder = partial(version_folder, repository, shape)
    unet_graph = partial(UNetGraph, vae_scale_factor=SIDE // shape.autoencoder.latent_side)
    denoising = {"sample": latents, "timestep": timestep, "encoder_hidden_states": states}
    twins = partial(write_twins, base=shape.name, max_rank=MAX_RANK) if shape.name in LORA_BASES else None
    write_component(folder("unet"), variant.unet, unet_graph, denoising, "noise_pred", twins)
    if shape.name in CONTROLNET_BASES:
        like = build_controlnet(build_unet(controlled_unet(shape)))
        unet = UNet2DConditionModel.from_pretrained(folder("unet"), torch_dtype=torch.float32)
        write_halves(folder("unet"), unet, like, latents, states)
    write_component(folder("text_encoder"), variant.text_encoder, ClipTextGraph, _IDS, "last_hidden_state", twins)
    write_component(folder("vae_encoder"), variant.autoencoder, EncoderGraph, _IMAGE, "latents")
    write_component(folder("vae_decoder"), variant.autoencoder, DecoderGraph, {"latents": latents}, "image")
    build_scheduler(shape).save_pretrained(folder("denoiser"))


def write_controlnet(
    folder: Path, controlnet: ControlNetModel, latents: Sequence[int], embeds: Sequence[int], pixels: Sequence[int]
) -> None:
    """A ControlNet, which is a Triton model of its own: any variant that it fits may call it. The shapes are those of
    a row: latents [C, h, w], embeds [T, D], pixels [H, W, 3]."""
    inputs = {
        "sample": torch.randn(EXAMPLE_BATCH, *latents),
        "timestep": torch.tensor([999.0, 500.0]),
        "encoder_hidden_states": torch.randn(EXAMPLE_BATCH, *embeds),
        "control_image": torch.zeros(EXAMPLE_BATCH, *pixels, dtype=torch.uint8),
    }
    write_component(folder, controlnet, ControlNetGraph, inputs, "residuals")


def write_clip(clip: CLIPModel, repository: Path) -> None:
    """The towers, each as the transformers class that holds it and its projection."""
    text = CLIPTextModelWithProjection(clip.config.text_config)
    text.load_state_dict({**_under(clip, "text_model"), "text_projection.weight": clip.text_projection.weight})
    image = CLIPVisionModelWithProjection(clip.config.vision_config)
    image.load_state_dict({**_under(clip, "vision_model"), "visual_projection.weight": clip.visual_projection.weight})
    write_component(repository / "embed_text" / "1", text, TextEmbedderGraph, _IDS, "embedding")
    write_component(repository / "embed_image" / "1", image, ImageEmbedderGraph, _IMAGE, "embedding")


def _under(clip: CLIPModel, tower: str) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in clip.state_dict().items() if name.startswith(f"{tower}.")}


def write_component(
    folder: Path,
    model: Any,
    graph: Callable[[Any], nn.Module],
    inputs: dict[str, torch.Tensor],
    output: str,
    twins: Callable[[Path, ModelProto], None] | None = None,
) -> None:
    """One version directory: the model as its class saves it, and the graph that points into the same weights."""
    write_graph(folder, graph(_store_in_half(model, folder)).eval(), inputs, output, twins)


def _store_in_half(model: Any, folder: Path) -> Any:
    """Write the weights as float16 and read them back as float32: what every reader of the folder gets."""
    half = copy.deepcopy(model).half()
    for parameter in half.parameters():
        parameter.data = parameter.data.contiguous()  # training keeps convolutions in channels_last
    half.save_pretrained(folder)
    _forget_origin(folder / "config.json")
    for path in folder.glob("*.safetensors"):
        path.chmod(0o644)  # safetensors writes for the owner alone; a server may run as somebody else
    return type(model).from_pretrained(folder, torch_dtype=torch.float32).eval()


def _forget_origin(config: Path) -> None:
    """diffusers notes the folder that a model was loaded from, which means nothing elsewhere."""
    values = json.loads(config.read_text())
    values.pop("_name_or_path", None)
    config.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n")


def example_latents(shape: VariantShape) -> torch.Tensor:
    side = shape.autoencoder.latent_side
    return torch.randn(EXAMPLE_BATCH, shape.autoencoder.latent_channels, side, side)
