"""Training an autoencoder. It sets the ceiling for every picture of its variant, so it comes first."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from diffusers import AutoencoderTiny
from torch import nn

from underpaint.build.autoencoders import denormalise, normalise
from underpaint.build.tiny.architectures import AutoencoderShape, build_autoencoder
from underpaint.build.tiny.data import AUTOENCODER_STREAM, EVALUATION_STREAM, pixels
from underpaint.build.tiny.scenes import stream

BATCH = 16
LATENT_NOISE = 0.03  # makes the decoder forgive what a sampler leaves behind; latents are near unit variance
SQUARED_WEIGHT = 15.0
GRADIENT_WEIGHT = 0.5


class AutoencoderTask:
    """Reconstruction: absolute and squared error, and the error of image gradients, which keeps edges."""

    def __init__(self, shape: AutoencoderShape, seed: int = 0, batch: int = BATCH) -> None:
        torch.manual_seed(seed)
        self.autoencoder = build_autoencoder(shape).to(memory_format=torch.channels_last)
        self.modules = nn.ModuleDict({"autoencoder": self.autoencoder})
        self.batch = batch

    def loss(self, step: int) -> torch.Tensor:
        scenes = stream(AUTOENCODER_STREAM, self.batch, first=step * self.batch)
        images = normalise(pixels(scenes)).to(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            latents = self.autoencoder.encode(images).latents
            latents = latents + LATENT_NOISE * torch.randn_like(latents)
            decoded = self.autoencoder.decode(latents).sample
        return reconstruction_loss(decoded.float(), images)


def reconstruction_loss(decoded: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """Both [B, 3, H, W] in [-1, 1].

    Squared error leads: absolute error alone is content with the median, which has no stripes and no dots.
    """
    error = decoded - images
    across = (error[..., 1:] - error[..., :-1]).abs().mean()
    down = (error[..., 1:, :] - error[..., :-1, :]).abs().mean()
    return error.abs().mean() + SQUARED_WEIGHT * error.square().mean() + GRADIENT_WEIGHT * (across + down)


@torch.no_grad()
def set_scaling_factor(autoencoder: AutoencoderTiny, images: int = 1024) -> None:
    """Choose the one number that gives the latents unit variance over training scenes."""
    scenes = list(stream(AUTOENCODER_STREAM, images))
    batches = [normalise(pixels(scenes[start : start + 64])) for start in range(0, images, 64)]
    latents = torch.cat([autoencoder.encode(batch).latents for batch in batches])
    autoencoder.register_to_config(scaling_factor=round(1 / latents.std().item(), 4))


@torch.no_grad()
def reconstruct(autoencoder: AutoencoderTiny, images: torch.Tensor) -> torch.Tensor:
    """uint8 [B, 64, 64, 3] through encoder and decoder and back to uint8."""
    return denormalise(autoencoder.decode(autoencoder.encode(normalise(images)).latents).sample)


def psnr(autoencoder: AutoencoderTiny, images: int = 256) -> float:
    """Mean over unseen scenes of each one's peak signal-to-noise ratio, in dB."""
    originals = pixels(stream(EVALUATION_STREAM, images))
    decoded = reconstruct(autoencoder, originals)
    errors = F.mse_loss(decoded.float(), originals.float(), reduction="none").mean(dim=(1, 2, 3))
    return float((10 * (math.log10(255**2) - errors.clamp_min(1e-6).log10())).mean())
