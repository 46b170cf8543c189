"""Stable Diffusion 3.5, SANA and FLUX in miniature: the real classes with random weights, in the hub's layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderDC,
    AutoencoderKL,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    SanaPipeline,
    SanaTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)
from torch import nn
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    Gemma2Config,
    Gemma2Model,
    T5Config,
    T5EncoderModel,
)

from tests.build.families.miniature_tokenizers import clip_tokenizer, gemma_tokenizer, t5_tokenizer

CLIP_TOKENS, T5_TOKENS, GEMMA_TOKENS = 16, 20, 20
SIDE = 32  # pixels


def sd35() -> StableDiffusion3Pipeline:
    torch.manual_seed(0)
    tokenizers = clip_tokenizer(CLIP_TOKENS), clip_tokenizer(CLIP_TOKENS, pad_token="!")
    transformer = SD3Transformer2DModel(
        sample_size=16,
        in_channels=16,
        out_channels=16,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=4,
        joint_attention_dim=40,
        caption_projection_dim=32,
        pooled_projection_dim=28,
        pos_embed_max_size=16,
        qk_norm="rms_norm",
        dual_attention_layers=(0,),
    )
    return StableDiffusion3Pipeline(
        transformer=_lively(transformer),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=autoencoder_kl(1.5305, 0.0609),
        text_encoder=CLIPTextModelWithProjection(clip(tokenizers[0], 16, projection=16)).eval(),
        tokenizer=tokenizers[0],
        text_encoder_2=CLIPTextModelWithProjection(clip(tokenizers[1], 12, projection=12)).eval(),
        tokenizer_2=tokenizers[1],
        text_encoder_3=t5(40),
        tokenizer_3=t5_tokenizer(T5_TOKENS),
    )


def flux(guidance_embeds: bool = True) -> FluxPipeline:
    torch.manual_seed(1)
    tokenizer = clip_tokenizer(CLIP_TOKENS)
    transformer = FluxTransformer2DModel(
        in_channels=64,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=40,
        pooled_projection_dim=16,
        guidance_embeds=guidance_embeds,
        axes_dims_rope=(4, 6, 6),
    )
    return FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True)
        if guidance_embeds
        else FlowMatchEulerDiscreteScheduler(),
        vae=autoencoder_kl(0.3611, 0.1159),
        text_encoder=CLIPTextModel(clip(tokenizer, 16, projection=16)).eval(),
        tokenizer=tokenizer,
        text_encoder_2=t5(40),
        tokenizer_2=t5_tokenizer(T5_TOKENS),
        transformer=_lively(transformer),
    )


def sana() -> SanaPipeline:
    torch.manual_seed(2)
    tokenizer = gemma_tokenizer(GEMMA_TOKENS)
    transformer = SanaTransformer2DModel(
        in_channels=8,
        out_channels=8,
        num_layers=1,
        num_attention_heads=4,
        attention_head_dim=8,
        num_cross_attention_heads=4,
        cross_attention_head_dim=8,
        cross_attention_dim=32,
        caption_channels=24,
        sample_size=8,
    )
    return SanaPipeline(
        tokenizer=tokenizer,
        text_encoder=gemma(len(tokenizer), 24),
        vae=autoencoder_dc(),
        transformer=_lively(transformer),
        scheduler=DPMSolverMultistepScheduler(flow_shift=3.0, use_flow_sigmas=True, prediction_type="flow_prediction"),
    )


PIPELINES = {"sd35": sd35, "flux": flux, "sana": sana}


def write_checkpoint(family: str, folder: Path) -> Path:
    """A folder like one that the hub has of the family."""
    PIPELINES[family]().save_pretrained(folder)
    return folder


def clip(tokenizer: Any, width: int, projection: int) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=CLIP_TOKENS,
        projection_dim=projection,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def t5(width: int) -> T5EncoderModel:
    vocabulary = len(t5_tokenizer(T5_TOKENS))
    config = T5Config(
        vocab_size=vocabulary,
        d_model=width,
        d_kv=8,
        d_ff=48,
        num_layers=2,
        num_heads=4,
        feed_forward_proj="gated-gelu",
    )
    return T5EncoderModel(config).eval()


def gemma(vocabulary: int, width: int) -> Gemma2Model:
    config = Gemma2Config(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        query_pre_attn_scalar=8,
        sliding_window=16,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=2,
    )
    return Gemma2Model(config).eval()


def autoencoder_kl(scaling_factor: float, shift_factor: float) -> AutoencoderKL:
    """As SD 3.5's and FLUX's, but that a latent stands for 2x2 pixels and not for 8x8."""
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 16),
        latent_channels=16,
        norm_num_groups=4,
        sample_size=SIDE,
        scaling_factor=scaling_factor,
        shift_factor=shift_factor,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )
    return _contrasted(vae, vae.decoder.conv_out)


def autoencoder_dc() -> AutoencoderDC:
    """As SANA's, but that a latent stands for 4x4 pixels and not for 32x32."""
    vae = AutoencoderDC(
        latent_channels=8,
        attention_head_dim=8,
        encoder_block_types=("ResBlock", "ResBlock", "EfficientViTBlock"),
        decoder_block_types=("ResBlock", "ResBlock", "EfficientViTBlock"),
        encoder_block_out_channels=(8, 8, 16),
        decoder_block_out_channels=(8, 8, 16),
        encoder_layers_per_block=(1, 1, 1),
        decoder_layers_per_block=(1, 1, 1),
        encoder_qkv_multiscales=((), (), (5,)),
        decoder_qkv_multiscales=((), (), (5,)),
        downsample_block_type="Conv",
        upsample_block_type="interpolate",
        scaling_factor=0.41407,
    )
    return _contrasted(vae, vae.decoder.conv_out)


def _lively(network: Any) -> Any:
    """Random weights as they are drawn change a sample little, and text says little to them; what comes out would be
    the noise that went in, whatever the prompt."""
    nn.init.normal_(network.proj_out.weight, std=0.3)
    if hasattr(network, "context_embedder"):
        nn.init.normal_(network.context_embedder.weight, std=1.0)
        nn.init.normal_(network.time_text_embed.text_embedder.linear_2.weight, std=0.5)
    return network.eval()


def _contrasted(vae: Any, last: nn.Conv2d) -> Any:
    """A random decoder paints nearly all of an image in one grey; compared images must have something in them."""
    with torch.no_grad():
        pixels = vae.decode(torch.randn(1, vae.config.latent_channels, 16, 16)).sample
        last.weight.mul_(0.4 / pixels.std())
    return vae.eval()
