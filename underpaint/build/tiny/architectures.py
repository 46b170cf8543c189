"""The networks of the family, all plain diffusers and transformers classes; here are their settings.

`tiny-l` paints on latents 4 x 16 x 16 (f4) by v-prediction with a zero-terminal-SNR schedule; `tiny-s` on
latents of its own, 16 x 8 x 8 (f8), by flow matching. The two share only the tokenizer and the scenes.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from diffusers import (
    AutoencoderTiny,
    ControlNetModel,
    DDIMScheduler,
    FlowMatchEulerDiscreteScheduler,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel

from underpaint.build.tiny.scenes import SIDE

TOKENS = 24  # length of every prompt, padded
TRAIN_TIMESTEPS = 1000
CONTROL_CHANNELS = (8, 16, 32, 64)  # of a control image on its way down to the latents' size


@dataclass(frozen=True)
class AutoencoderShape:
    """An AutoencoderTiny: every level but the first halves the side. Blocks are listed from 64 x 64 down."""

    name: str
    latent_channels: int
    channels: int
    encoder_blocks: tuple[int, ...]
    decoder_blocks: tuple[int, ...]

    @property
    def latent_side(self) -> int:
        return SIDE >> (len(self.encoder_blocks) - 1)


@dataclass(frozen=True)
class Distillation:
    """A variant that starts as a copy of another one, and learns to paint in fewer steps and without guidance."""

    teacher: str
    guidance_scale: float


@dataclass(frozen=True)
class VariantShape:
    """One servable model: autoencoder, text encoder, UNet, and how it is sampled by default."""

    name: str
    prediction: Literal["v_prediction", "flow_prediction"]
    autoencoder: AutoencoderShape
    unet_channels: tuple[int, ...]
    text_width: int
    default_steps: int
    default_guidance: float = 3.0
    attention_levels: tuple[bool, ...] = (True, True)
    head_dim: int = 16
    norm_groups: int = 8
    text_layers: int = 2
    high_noise_share: float = 0.0  # of the training draws, beyond the usual ones
    layers_per_block: tuple[int, ...] = (1, 1)
    grown_from: str | None = None  # the shallower variant whose weights it starts from
    distillation: Distillation | None = None  # instead of training from data


AUTOENCODER_F4 = AutoencoderShape("autoencoder-f4", 4, 32, encoder_blocks=(0, 2, 3), decoder_blocks=(3, 2, 1))
# No block at full size on the way in, where convolutions cost most; more of them where they are cheap.
AUTOENCODER_F8 = AutoencoderShape("autoencoder-f8", 16, 32, encoder_blocks=(0, 2, 3, 4), decoder_blocks=(4, 3, 2, 1))

TINY_M = VariantShape(
    name="tiny-m",
    prediction="flow_prediction",
    autoencoder=AUTOENCODER_F8,
    unet_channels=(64, 128),
    text_width=64,
    high_noise_share=0.25,
    default_steps=6,
)
# Depth goes where it costs the fewest weights: to the upper level, where textures are made.
TINY_L = dataclasses.replace(
    TINY_M,
    name="tiny-l",
    layers_per_block=(6, 2),
    grown_from="tiny-m",
    high_noise_share=0.1,
    default_steps=9,
)
# Never served: what `tiny-s` learns from.
TEACHER = VariantShape(
    name="teacher",
    prediction="v_prediction",
    autoencoder=AUTOENCODER_F4,
    unet_channels=(48, 96, 160),
    # Attention over 16 x 16 costs a third of the forward; the two lower levels hear the caption well enough.
    attention_levels=(False, True, True),
    layers_per_block=(1, 1, 1),
    text_width=96,
    high_noise_share=0.1,  # where a thing stands can only be learnt before the picture shows it
    default_steps=10,
)
TINY_S = dataclasses.replace(
    TEACHER,
    name="tiny-s",
    default_steps=2,
    default_guidance=1.0,
    distillation=Distillation(teacher="teacher", guidance_scale=3.0),
)
VARIANTS = {shape.name: shape for shape in (TINY_M, TINY_L, TINY_S)}
AUTOENCODERS = {shape.name: shape for shape in (AUTOENCODER_F4, AUTOENCODER_F8)}


def build_autoencoder(shape: AutoencoderShape, scaling_factor: float = 1.0) -> AutoencoderTiny:
    levels = len(shape.encoder_blocks)
    return AutoencoderTiny(
        encoder_block_out_channels=(shape.channels,) * levels,
        decoder_block_out_channels=(shape.channels,) * levels,
        num_encoder_blocks=shape.encoder_blocks,
        num_decoder_blocks=shape.decoder_blocks,
        latent_channels=shape.latent_channels,
        scaling_factor=scaling_factor,
    )


def build_text_encoder(shape: VariantShape, vocabulary: int, end_token: int) -> CLIPTextModel:
    config = CLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=shape.text_width,
        intermediate_size=4 * shape.text_width,
        num_hidden_layers=shape.text_layers,
        num_attention_heads=shape.text_width // 16,
        max_position_embeddings=TOKENS,
        projection_dim=shape.text_width,
        bos_token_id=end_token - 1,
        eos_token_id=end_token,
        pad_token_id=end_token,
    )
    return CLIPTextModel(config)


def build_unet(shape: VariantShape) -> UNet2DConditionModel:
    """One residual block a level, with cross-attention on the levels that the shape names."""
    attention = shape.attention_levels
    return UNet2DConditionModel(
        sample_size=shape.autoencoder.latent_side,
        in_channels=shape.autoencoder.latent_channels,
        out_channels=shape.autoencoder.latent_channels,
        block_out_channels=shape.unet_channels,
        down_block_types=tuple("CrossAttnDownBlock2D" if a else "DownBlock2D" for a in attention),
        up_block_types=tuple("CrossAttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attention)),
        layers_per_block=_one_or_all(shape.layers_per_block),
        cross_attention_dim=shape.text_width,
        # diffusers' historical name: for this class `attention_head_dim` is the number of heads.
        attention_head_dim=tuple(channels // shape.head_dim for channels in shape.unet_channels),
        norm_num_groups=shape.norm_groups,
    )


def build_controlnet(unet: UNet2DConditionModel) -> ControlNetModel:
    """A ControlNet that starts as a UNet's encoder and changes nothing yet."""
    return ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=CONTROL_CHANNELS)


def controlled_unet(shape: VariantShape) -> VariantShape:
    """Whose encoder a variant's ControlNets are a copy of: the shallower variant's, where it was grown from one, so
    that a step of theirs costs a fraction of its own."""
    return VARIANTS[shape.grown_from] if shape.grown_from else shape


def _one_or_all(values: tuple[int, ...]) -> int | tuple[int, ...]:
    """One number where all are the same: diffusers loads LoRAs into no other UNet."""
    return values[0] if len(set(values)) == 1 else values


def build_scheduler(shape: VariantShape) -> Any:
    """The diffusers scheduler whose config is exported with the variant."""
    if shape.prediction == "flow_prediction":
        return FlowMatchEulerDiscreteScheduler(num_train_timesteps=TRAIN_TIMESTEPS, shift=1.0)
    return DDIMScheduler(
        num_train_timesteps=TRAIN_TIMESTEPS,
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=True,
    )
