"""Training a variant: its UNet and text encoder together, on latents of its finished autoencoder.

`tiny-l` learns v-prediction (Salimans & Ho 2022, arXiv:2202.00512, appendix D) under a schedule that ends
in pure noise (Lin et al. 2023, arXiv:2305.08891); `tiny-s` learns a rectified flow (Liu et al. 2022,
arXiv:2209.03003). Both hear the empty caption now and then, for classifier-free guidance.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import AttnProcessor
from torch import nn

from underpaint.build.tiny import facts
from underpaint.build.tiny.architectures import (
    TRAIN_TIMESTEPS,
    VariantShape,
    build_scheduler,
    build_text_encoder,
    build_unet,
)
from underpaint.build.tiny.data import Corpus

BATCH = 32
CAPTION_DROPOUT = 0.1
# The last token of a caption is asked for the whole scene, so that the text encoder learns order and
# relations at once instead of through what reaches it from the picture.
READING_WEIGHT = 0.1
UNTOLD = -1
# Shapes are decided at middle noise; a part of the draws stays uniform so that both ends are learnt too.
UNIFORM_SHARE = 0.25
HIGH_NOISE = 0.75


@dataclass(frozen=True)
class Corrupted:
    """What the UNet is shown and what it should answer.

    `sample`, `target`: float32 [B, C, h, w]; `timestep`: float32 [B], in [0, 1000].
    """

    sample: torch.Tensor
    target: torch.Tensor
    timestep: torch.Tensor


@dataclass(frozen=True)
class Drawn:
    """Rows before any noise is added: `latents`, `noise` float32 [B, C, h, w]; the others as in `Rows`."""

    latents: torch.Tensor
    noise: torch.Tensor
    ids: torch.Tensor
    told: torch.Tensor


@dataclass(frozen=True)
class Rows:
    """What one step learns from: `ids` int64 [B, 24]; `told` int64 [B, facts], `UNTOLD` without a caption."""

    corrupted: Corrupted
    ids: torch.Tensor
    told: torch.Tensor


def draw_levels(count: int, high_noise_share: float = 0.0) -> torch.Tensor:
    """Noise levels, float32 [count] in (0, 1): the share of noise in noise and signal together.

    Logit-normal, or uniform for a share of the draws, or near one for another.
    """
    middle = torch.sigmoid(torch.randn(count))
    levels = torch.where(torch.rand(count) < UNIFORM_SHARE, torch.rand(count), middle)
    high = HIGH_NOISE + (1 - HIGH_NOISE) * torch.rand(count)
    return torch.where(torch.rand(count) < high_noise_share, high, levels)


def corrupt_flow(latents: torch.Tensor, noise: torch.Tensor, levels: torch.Tensor) -> Corrupted:
    """x = (1 - s) x0 + s e, with target e - x0; the timestep is 1000 s."""
    sigma = levels.view(-1, 1, 1, 1)
    return Corrupted((1 - sigma) * latents + sigma * noise, noise - latents, TRAIN_TIMESTEPS * levels)


def corrupt_v(
    latents: torch.Tensor, noise: torch.Tensor, levels: torch.Tensor, alphas_cumprod: torch.Tensor
) -> Corrupted:
    """x = a x0 + s e, with target a e - s x0, where a^2 = alphas_cumprod[t] and s^2 = 1 - a^2.

    The timestep is the first whose s / (s + a) reaches the level. Timesteps drawn evenly would leave the levels
    at which details appear to a small part of them.
    """
    alphas, sigmas = alphas_cumprod.sqrt(), (1 - alphas_cumprod).sqrt()
    timesteps = torch.searchsorted(sigmas / (sigmas + alphas), levels).clamp_max(TRAIN_TIMESTEPS - 1)
    signal, sigma = alphas[timesteps].view(-1, 1, 1, 1), sigmas[timesteps].view(-1, 1, 1, 1)
    return Corrupted(signal * latents + sigma * noise, signal * noise - sigma * latents, timesteps.float())


class VariantTask:
    """Denoising of cached latents, given a caption or, for a tenth of the rows, none."""

    def __init__(self, shape: VariantShape, corpus: Corpus, vocabulary: int, seed: int = 0, batch: int = BATCH) -> None:
        torch.manual_seed(seed)
        self.corpus = corpus
        self.batch = batch
        self.high_noise_share = shape.high_noise_share
        self.text_encoder = build_text_encoder(shape, vocabulary, end_token=vocabulary - 1)
        self.unet = build_unet(shape).to(memory_format=torch.channels_last)
        # torch's fused CPU attention is several times slower in bfloat16 than plain matrix products.
        self.unet.set_attn_processor(AttnProcessor())
        self.reader = nn.Linear(shape.text_width, sum(facts.CLASSES))
        self.modules = nn.ModuleDict({"text_encoder": self.text_encoder, "unet": self.unet, "reader": self.reader})
        scheduler = build_scheduler(shape)
        self.alphas_cumprod = None if shape.prediction == "flow_prediction" else scheduler.alphas_cumprod

    def loss(self, step: int) -> torch.Tensor:
        rows = self.draw()
        states = self.text_encoder(rows.ids).last_hidden_state
        denoising = F.mse_loss(predict_in_bfloat16(self.unet, rows.corrupted, states), rows.corrupted.target)
        return denoising + READING_WEIGHT * reading_loss(self.reader(states[:, -1]), rows.told)

    def draw(self) -> Rows:
        """Rows of the corpus at a level of noise of their own each."""
        drawn = self.draw_clean()
        levels = draw_levels(self.batch, self.high_noise_share)
        return Rows(self._corrupt(drawn.latents, drawn.noise, levels), drawn.ids, drawn.told)

    def draw_clean(self) -> Drawn:
        """Rows of the corpus, each in one phrasing or none, and the noise that is to be added."""
        rows = torch.randint(len(self.corpus.latents), (self.batch,))
        phrasings = torch.randint(self.corpus.ids.shape[1], (self.batch,))
        dropped = torch.rand(self.batch, 1) < CAPTION_DROPOUT
        ids = torch.where(dropped, self.corpus.empty_ids, self.corpus.ids[rows, phrasings])
        told = self.corpus.facts[rows].long().masked_fill(dropped, UNTOLD)
        latents = self.corpus.latents[rows].float()
        return Drawn(latents, torch.randn_like(latents), ids.long(), told)

    def _corrupt(self, latents: torch.Tensor, noise: torch.Tensor, levels: torch.Tensor) -> Corrupted:
        if self.alphas_cumprod is None:
            return corrupt_flow(latents, noise, levels)
        return corrupt_v(latents, noise, levels, self.alphas_cumprod)


def reading_loss(logits: torch.Tensor, told: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy over facts: `logits` [B, sum of classes], `told` int64 [B, facts]."""
    losses = [
        F.cross_entropy(part, fact, ignore_index=UNTOLD, reduction="sum")
        for part, fact in zip(logits.split(facts.CLASSES, dim=1), told.unbind(1), strict=True)
    ]
    return torch.stack(losses).sum() / told.numel()


def predict_in_bfloat16(unet: nn.Module, corrupted: Corrupted, states: torch.Tensor) -> torch.Tensor:
    """One forward whose weights and activations are bfloat16; gradients reach the float32 weights.

    About 1.6 times as fast as float32 on a CPU with AVX512-BF16, where autocast gains little.
    """
    weights = {name: weight.bfloat16() for name, weight in unet.named_parameters()}
    sample = corrupted.sample.bfloat16().to(memory_format=torch.channels_last)
    inputs = (sample, corrupted.timestep, states.bfloat16())
    predicted: torch.Tensor = torch.func.functional_call(unet, weights, inputs).sample
    return predicted.float()
