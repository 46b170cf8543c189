"""Evaluation: paint from captions that training never saw, with diffusers' classes, and let the judge read.

Held-out scenes, with combinations that training never shows, are reported apart. The autoencoder's
reconstructions of the same scenes are the ceiling of both.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderTiny, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from underpaint.build.autoencoders import denormalise
from underpaint.build.tiny.architectures import VariantShape, build_scheduler
from underpaint.build.tiny.data import EVALUATION_STREAM, pixels
from underpaint.build.tiny.export import Variant, tokenizer_folder, version_folder
from underpaint.build.tiny.judge import judge, score
from underpaint.build.tiny.scenes import Scene, Split, caption, stream
from underpaint.build.tiny.tokenizer import encode, load_tokenizer
from underpaint.build.tiny.train_autoencoder import reconstruct

BATCH = 32


@dataclass(frozen=True)
class Sampling:
    steps: int
    guidance: float
    seed: int = 0


def load_variant(repository: Path, shape: VariantShape) -> Variant:
    """What was exported, as any diffusers user would load it."""

    def load(cls: Any, component: str) -> Any:
        return cls.from_pretrained(version_folder(repository, shape, component), torch_dtype=torch.float32).eval()

    return Variant(
        unet=load(UNet2DConditionModel, "unet"),
        text_encoder=load(CLIPTextModel, "text_encoder"),
        autoencoder=load(AutoencoderTiny, "vae_decoder"),
    )


def evaluate_variant(
    shape: VariantShape,
    variant: Variant,
    tokenizer: CLIPTokenizer,
    prompts: int = 128,
    held_out_prompts: int = 64,
    sampling: Sampling | None = None,
) -> dict[str, Any]:
    """Attribute accuracies as plain JSON values: unseen captions, held-out combinations, and the ceiling."""
    sampling = sampling or Sampling(shape.default_steps, shape.default_guidance)
    unseen = list(stream(EVALUATION_STREAM, prompts))
    held_out = list(stream(EVALUATION_STREAM, held_out_prompts, Split.HELD_OUT))
    report: dict[str, Any] = {"variant": shape.name, "prompts": prompts, **dataclasses.asdict(sampling)}
    report["autoencoder"] = _score(unseen, reconstruct(variant.autoencoder, pixels(unseen)))
    for name, scenes in (("unseen", unseen), ("held_out", held_out)):
        if scenes:
            captions = [caption(scene, index) for index, scene in enumerate(scenes)]
            report[name] = _score(scenes, paint(shape, variant, tokenizer, captions, sampling))
    return report


def evaluate_exported(repository: Path, shape: VariantShape, prompts: int = 128) -> dict[str, Any]:
    """Evaluate what a model repository holds."""
    tokenizer = load_tokenizer(tokenizer_folder(repository))
    return evaluate_variant(shape, load_variant(repository, shape), tokenizer, prompts)


@torch.no_grad()
def paint(
    shape: VariantShape, variant: Variant, tokenizer: CLIPTokenizer, captions: list[str], sampling: Sampling
) -> torch.Tensor:
    """Pictures uint8 [N, 64, 64, 3]; the noise of each depends on the seed and its place in the list."""
    generator = torch.Generator().manual_seed(sampling.seed)
    side = shape.autoencoder.latent_side
    noise = torch.randn(len(captions), shape.autoencoder.latent_channels, side, side, generator=generator)
    empty = _hear(variant, tokenizer, [""])
    pictures = []
    for first in range(0, len(captions), BATCH):
        told = _hear(variant, tokenizer, captions[first : first + BATCH])
        latents = _denoise(shape, variant.unet, noise[first : first + BATCH], told, empty, sampling)
        scaled = latents / variant.autoencoder.config.scaling_factor
        pictures.append(denormalise(variant.autoencoder.decode(scaled).sample))
    return torch.cat(pictures)


def _hear(variant: Variant, tokenizer: CLIPTokenizer, captions: list[str]) -> torch.Tensor:
    """Hidden states [B, 24, D]."""
    states: torch.Tensor = variant.text_encoder(torch.tensor(encode(tokenizer, captions))).last_hidden_state
    return states


def _denoise(
    shape: VariantShape,
    unet: UNet2DConditionModel,
    latents: torch.Tensor,
    told: torch.Tensor,
    empty: torch.Tensor,
    sampling: Sampling,
) -> torch.Tensor:
    """Classifier-free guidance with the variant's own scheduler; latents [B, C, h, w]."""
    scheduler = build_scheduler(shape)
    scheduler.set_timesteps(sampling.steps)
    states = torch.cat([empty.expand_as(told), told])
    for timestep in scheduler.timesteps:
        without, with_caption = unet(torch.cat([latents, latents]), timestep, states).sample.chunk(2)
        guided = without + sampling.guidance * (with_caption - without)
        latents = scheduler.step(guided, timestep, latents).prev_sample
    return latents


def _score(scenes: list[Scene], pictures: torch.Tensor) -> dict[str, float]:
    return {name: round(value, 3) for name, value in score(judge(pictures.numpy(), scenes)).items()}
