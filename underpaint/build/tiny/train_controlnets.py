"""Training the family's ControlNets (Zhang et al. 2023, arXiv:2302.05543) for the frozen weights of an exported
variant, by the loss that it was itself trained with.

Each is a `ControlNetModel` of diffusers, of the shape of the shallower variant that the base was grown from, and starts
from its encoder: so a step of it costs a fraction of the UNet's (see `addons.residuals` for how it fits).
"""

from __future__ import annotations

import logging
import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import ControlNetModel
from diffusers.models.attention_processor import AttnProcessor
from torch import nn

from underpaint.addons.residuals import EncoderShape, residual_places
from underpaint.build.autoencoders import normalise
from underpaint.build.tiny.architectures import VariantShape, build_controlnet, controlled_unet
from underpaint.build.tiny.control_images import CONTROL_IMAGES, ControlImage, placed_freely
from underpaint.build.tiny.data import pixels
from underpaint.build.tiny.evaluate import load_variant
from underpaint.build.tiny.export import Variant, tokenizer_folder
from underpaint.build.tiny.loop import Recipe, train
from underpaint.build.tiny.scenes import PHRASINGS, caption, stream
from underpaint.build.tiny.tokenizer import encode, load_tokenizer
from underpaint.build.tiny.train_variant import Corrupted, corrupt_flow, draw_levels
from underpaint.errors import InvalidArgument

log = logging.getLogger(__name__)

CONTROLNET_STREAM = 6  # of scenes, see `data`
BATCH = 16
SCENES = 4000
# Without a caption the control image alone says what to paint, so that is when it is learnt best.
CAPTION_DROPOUT = 0.2
HIGH_NOISE_SHARE = 0.3  # of the draws, beyond the usual ones: that is where places are decided


@dataclass(frozen=True)
class Examples:
    """`latents` float32 [N, C, h, w], scaled; `control` uint8 [N, 64, 64, 3]; `ids` int64 [N, 24]; `empty_ids` [24]."""

    latents: torch.Tensor
    control: torch.Tensor
    ids: torch.Tensor
    empty_ids: torch.Tensor


@torch.no_grad()
def draw_examples(draw: ControlImage, variant: Variant, repository: Path, count: int) -> Examples:
    """Scenes of the stream, placed freely, with what they are told by."""
    rng, tokenizer = random.Random(CONTROLNET_STREAM), load_tokenizer(tokenizer_folder(repository))
    scenes = [placed_freely(rng, scene) for scene in stream(CONTROLNET_STREAM, count)]
    latents = [_encoded(variant, images) for images in pixels(scenes).split(100)]
    control = torch.from_numpy(np.stack([draw(scene) for scene in scenes]))
    ids = torch.tensor(encode(tokenizer, [caption(scene, i % PHRASINGS) for i, scene in enumerate(scenes)])).long()
    return Examples(torch.cat(latents), control, ids, torch.tensor(encode(tokenizer, [""])[0]).long())


def _encoded(variant: Variant, images: torch.Tensor) -> torch.Tensor:
    with torch.autocast("cpu", torch.bfloat16):  # see `data.encode_corpus`
        encoded: torch.Tensor = variant.autoencoder.encode(normalise(images)).latents.float()
    return encoded * variant.autoencoder.config.scaling_factor


class ControlNetTask:
    """The variant's own loss, of which only the ControlNet moves."""

    def __init__(self, controlnet: ControlNetModel, variant: Variant, examples: Examples) -> None:
        self._unet = variant.unet.requires_grad_(False).bfloat16().to(memory_format=torch.channels_last)
        self._text_encoder, self._examples = variant.text_encoder.requires_grad_(False), examples
        shape = EncoderShape.of(variant.unet.config)
        self._places, self._skips = residual_places(EncoderShape.of(controlnet.config), shape), len(shape.skips)
        for network in (controlnet, self._unet):
            network.set_attn_processor(AttnProcessor())  # see `train_variant`
        self.modules = nn.ModuleDict({"controlnet": controlnet.to(memory_format=torch.channels_last)})

    def loss(self, step: int) -> torch.Tensor:
        rows = torch.randint(len(self._examples.latents), (BATCH,))
        dropped = torch.rand(BATCH, 1) < CAPTION_DROPOUT
        ids = torch.where(dropped, self._examples.empty_ids, self._examples.ids[rows])
        latents = self._examples.latents[rows]
        shown = corrupt_flow(latents, torch.randn_like(latents), draw_levels(BATCH, HIGH_NOISE_SHARE))
        states = self._text_encoder(ids).last_hidden_state.bfloat16()
        return F.mse_loss(self._predict(shown, states, self._examples.control[rows]), shown.target)

    def _predict(self, shown: Corrupted, states: torch.Tensor, control: torch.Tensor) -> torch.Tensor:
        """Both networks in bfloat16; gradients reach the ControlNet's float32 weights."""
        controlnet, sample = self.modules["controlnet"], shown.sample.bfloat16()
        weights = {name: weight.bfloat16() for name, weight in controlnet.named_parameters()}
        inputs = (sample, shown.timestep, states, control_condition(control).bfloat16())
        down, middle = torch.func.functional_call(controlnet, weights, inputs, {"return_dict": False})
        skips: list[torch.Tensor] = [torch.zeros((), dtype=sample.dtype)] * self._skips
        for place, residual in zip(self._places, down, strict=True):
            skips[place] = residual
        predicted: torch.Tensor = self._unet(
            sample, shown.timestep, states, down_block_additional_residuals=skips, mid_block_additional_residual=middle
        ).sample
        return predicted.float()


def control_condition(images: torch.Tensor) -> torch.Tensor:
    """uint8 [B, 64, 64, 3] to float32 [B, 3, 64, 64] in [0, 1], as diffusers' pipelines show ControlNets images."""
    return images.permute(0, 3, 1, 2).float() / 255


def train_controlnet(
    name: str,
    base: VariantShape,
    repository: Path,
    out: Path,
    recipe: Recipe,
    scenes: int = SCENES,
    fresh: bool = False,
) -> ControlNetModel:
    """Train a ControlNet for what is exported of ``base``, going on from its checkpoint."""
    if base.prediction != "flow_prediction":
        raise InvalidArgument.of("base", base.name, "a variant that learnt a flow")
    torch.manual_seed(recipe.seed)
    variant = load_variant(repository, base)
    like = load_variant(repository, controlled_unet(base)).unet
    examples = draw_examples(CONTROL_IMAGES[name], variant, repository, scenes)
    task = ControlNetTask(build_controlnet(like), variant, examples)
    trained = train(task, recipe, out / f"controlnet-{base.name}-{name}.pt", fresh)
    log.info("%s: %d steps, loss %.4f", name, trained.progress.step, trained.progress.recent_loss)
    controlnet = trained.average["controlnet"].to(memory_format=torch.contiguous_format)
    assert isinstance(controlnet, ControlNetModel)
    return controlnet
