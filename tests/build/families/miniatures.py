"""Checkpoints in the hub's layout, of the real classes with random weights, small enough to be built in seconds.

Their levels are as many as it takes to be halved; nothing is as wide as it would have to be to learn anything.
"""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    EulerDiscreteScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from tests.build.families.miniature_tokenizers import clip_tokenizer

TOKENS = 16


def write_sd15(folder: Path) -> Path:
    torch.manual_seed(15)
    tokenizer = clip_tokenizer(TOKENS)
    pipeline = StableDiffusionPipeline(
        vae=autoencoder_kl(4, 0.18215),
        text_encoder=CLIPTextModel(_clip_config(tokenizer, 32)),
        tokenizer=tokenizer,
        unet=unet(cross_attention_dim=32),
        scheduler=DDIMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, steps_offset=1
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder)
    return folder


def write_sdxl(folder: Path) -> Path:
    torch.manual_seed(21)
    first, second = clip_tokenizer(TOKENS), clip_tokenizer(TOKENS, pad_token="!")
    pipeline = StableDiffusionXLPipeline(
        vae=autoencoder_kl(4, 0.13025),
        text_encoder=CLIPTextModel(_clip_config(first, 32)),
        text_encoder_2=CLIPTextModelWithProjection(_clip_config(second, 48)),
        tokenizer=first,
        tokenizer_2=second,
        unet=unet(
            cross_attention_dim=80,
            use_linear_projection=True,
            transformer_layers_per_block=(1, 2),
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=48 + 6 * 8,
        ),
        scheduler=EulerDiscreteScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            steps_offset=1,
            timestep_spacing="leading",
        ),
        add_watermarker=False,
    )
    pipeline.save_pretrained(folder)
    return folder


def unet(cross_attention_dim: int, **more: object) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        block_out_channels=(32, 64),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=cross_attention_dim,
        attention_head_dim=(2, 4),
        norm_num_groups=8,
        **more,
    )


def autoencoder_kl(latent_channels: int, scaling_factor: float, shift_factor: float | None = None) -> AutoencoderKL:
    """Halves each side twice."""
    return AutoencoderKL(
        block_out_channels=(16, 32, 32),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        latent_channels=latent_channels,
        norm_num_groups=8,
        sample_size=64,
        scaling_factor=scaling_factor,
        shift_factor=shift_factor,
    )


def _clip_config(tokenizer: CLIPTokenizer, width: int) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=TOKENS,
        projection_dim=width,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
