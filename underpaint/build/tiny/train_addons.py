"""Training the family's LoRAs: low-rank factors beside the frozen weights of an exported variant, with PEFT.

They learn what ``restyle`` draws, by the loss that the variant itself was trained with, and end as files that diffusers
loads: ``addons/lora/<name>.safetensors``.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderTiny
from safetensors.torch import load_file, save_file
from torch import nn

from underpaint.build.autoencoders import normalise
from underpaint.build.tiny import restyle
from underpaint.build.tiny.architectures import VariantShape
from underpaint.build.tiny.evaluate import load_variant
from underpaint.build.tiny.export import Variant, tokenizer_folder
from underpaint.build.tiny.loop import Recipe, train
from underpaint.build.tiny.scenes import PHRASINGS, Scene, caption, stream
from underpaint.build.tiny.tokenizer import encode, load_tokenizer
from underpaint.build.tiny.train_variant import CAPTION_DROPOUT, corrupt_flow, draw_levels
from underpaint.errors import InvalidArgument

log = logging.getLogger(__name__)

ADDON_BASE = "tiny-l"
ADDON_STREAM = 5  # of scenes, see `data`
BATCH = 16
_FITTING_STEPS, _FITTING_RATE, _FITTING_LEASH = 15, 0.05, 0.1
_UNET_TARGETS = ["to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2"]
_CONV_TARGETS = ["conv1", "conv2"]
_TEXT_TARGETS = ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"]


@dataclass(frozen=True)
class AddonShape:
    """A LoRA. ``convolutions``: whether residual blocks are adapted too; ``text``: whether the text encoder is;
    ``fine``: whether it draws what the autoencoder's encoder has never seen (see ``fitted``)."""

    name: str
    rank: int
    convolutions: bool = False
    text: bool = False
    fine: bool = False


ADDONS = {
    shape.name: shape
    for shape in (
        AddonShape("palette", rank=8),
        AddonShape("outline", rank=16, convolutions=True, fine=True),
        AddonShape("pastel", rank=4, text=True),
        AddonShape("night", rank=2),
        AddonShape("moon", rank=8, convolutions=True, text=True),
        AddonShape("arrow", rank=8, convolutions=True, text=True),
    )
}


def draw(shape: AddonShape, scene: Scene, phrasing: int) -> tuple[np.ndarray, str]:
    """A picture, uint8 [64, 64, 3], and what is said of it."""
    if shape.name in restyle.STYLES:
        return np.asarray(restyle.STYLES[shape.name](scene)), caption(scene, phrasing)
    new = restyle.SHAPES[shape.name]
    return np.asarray(restyle.with_shape(scene, new)), restyle.caption_with_shape(scene, new, phrasing)


@dataclass(frozen=True)
class Examples:
    """`latents` float32 [N, C, h, w], scaled; `ids` int64 [N, 24]; `empty_ids` int64 [24]."""

    latents: torch.Tensor
    ids: torch.Tensor
    empty_ids: torch.Tensor


def draw_examples(shape: AddonShape, variant: Variant, repository: Path, count: int) -> Examples:
    tokenizer = load_tokenizer(tokenizer_folder(repository))
    drawn = [draw(shape, scene, i % PHRASINGS) for i, scene in enumerate(stream(ADDON_STREAM, count))]
    latents = []
    for batch in _batches([picture for picture, _ in drawn], 64):
        images = normalise(torch.from_numpy(np.stack(batch)))
        with torch.no_grad():
            encoded = variant.autoencoder.encode(images).latents
        if shape.fine:
            encoded = fitted(variant.autoencoder, images, encoded)
        latents.append(encoded * variant.autoencoder.config.scaling_factor)
    ids, empty = torch.tensor(encode(tokenizer, [said for _, said in drawn])), torch.tensor(encode(tokenizer, [""])[0])
    return Examples(torch.cat(latents), ids.long(), empty.long())


def fitted(autoencoder: AutoencoderTiny, images: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
    """Latents [N, C, h, w] that the decoder paints more nearly as drawn than what the encoder says of the images,
    float32 [N, 3, H, W]: of thin lines it says little, and the decoder can paint more than it is told. They stay as
    near to the encoder's as that allows, since what is arbitrary in them cannot be learnt."""
    moving = latents.clone().requires_grad_()
    optimiser = torch.optim.Adam([moving], lr=_FITTING_RATE, betas=(0.9, 0.95))
    for step in range(_FITTING_STEPS):
        optimiser.param_groups[0]["lr"] = _FITTING_RATE * (1 - step / _FITTING_STEPS)
        error = F.mse_loss(autoencoder.decode(moving).sample, images) + _FITTING_LEASH * F.mse_loss(moving, latents)
        (moving.grad,) = torch.autograd.grad(error, [moving])
        optimiser.step()
    return moving.detach()


def _batches(items: list[np.ndarray], size: int) -> Iterator[list[np.ndarray]]:
    return (items[first : first + size] for first in range(0, len(items), size))


class AddonTask:
    """The variant's own loss, of which only the factors move."""

    def __init__(self, shape: AddonShape, variant: Variant, examples: Examples, high_noise_share: float) -> None:
        self._variant, self._examples, self._high_noise_share = variant, examples, high_noise_share
        factors = _add(variant, shape)
        self.keys = list(factors)
        self.modules = nn.ModuleDict({"factors": nn.ParameterList(factors.values())})

    @torch.no_grad()
    def take_up(self, saved: Mapping[str, torch.Tensor]) -> None:
        """Go on from a file's factors; parts of the LoRA that it has not begin anew."""
        for key, factor in zip(self.keys, self.modules["factors"].parameters(), strict=True):
            if key in saved:
                factor.copy_(saved[key])

    def loss(self, step: int) -> torch.Tensor:
        rows = torch.randint(len(self._examples.latents), (BATCH,))
        dropped = torch.rand(BATCH, 1) < CAPTION_DROPOUT
        ids = torch.where(dropped, self._examples.empty_ids, self._examples.ids[rows])
        latents = self._examples.latents[rows]
        shown = corrupt_flow(latents, torch.randn_like(latents), draw_levels(BATCH, self._high_noise_share))
        states = self._variant.text_encoder(ids).last_hidden_state
        return F.mse_loss(self._variant.unet(shown.sample, shown.timestep, states).sample, shown.target)


def _add(variant: Variant, shape: AddonShape) -> dict[str, nn.Parameter]:
    """Put the LoRA's factors beside the variant's weights, which are frozen; the factors, by the names of files."""
    from peft import LoraConfig

    targets = _UNET_TARGETS + (_CONV_TARGETS if shape.convolutions else [])
    for network, wanted in ((variant.unet, targets), (variant.text_encoder, _TEXT_TARGETS if shape.text else [])):
        network.requires_grad_(False)
        if wanted:
            network.add_adapter(LoraConfig(r=shape.rank, lora_alpha=shape.rank, target_modules=wanted))
    return {**_factors(variant.unet, "unet."), **_factors(variant.text_encoder, "text_encoder.")}


@torch.no_grad()
def adapted(variant: Variant, shape: AddonShape, saved: Mapping[str, torch.Tensor]) -> None:
    """Let a LoRA act on a variant."""
    for key, factor in _add(variant, shape).items():
        factor.copy_(saved[key])


def _factors(network: nn.Module, prefix: str) -> dict[str, nn.Parameter]:
    """By the names that diffusers' files have: without the name of the adapter."""
    named = ((name, each) for name, each in network.named_parameters() if each.requires_grad)
    return {prefix + name.replace(".default.", "."): each for name, each in named}


def train_addon(
    shape: AddonShape,
    base: VariantShape,
    repository: Path,
    out: Path,
    store: Path,
    recipe: Recipe,
    scenes: int = 3000,
    fresh: bool = False,
    from_exported: bool = False,
) -> Path:
    """Train a LoRA for what is exported of ``base``, going on from its checkpoint, or ``from_exported`` without one
    from its file in ``store``; returns that file."""
    if base.prediction != "flow_prediction":
        raise InvalidArgument.of("base", base.name, "a variant that learnt a flow")
    torch.manual_seed(recipe.seed)
    variant = load_variant(repository, base)
    task = AddonTask(shape, variant, draw_examples(shape, variant, repository, scenes), base.high_noise_share)
    path = store / f"{shape.name}.safetensors"
    if from_exported:
        task.take_up(load_file(path))
    trained = train(task, recipe, out / f"lora-{base.name}-{shape.name}.pt", fresh)
    log.info("%s: %d steps, loss %.4f", shape.name, trained.progress.step, trained.progress.recent_loss)
    store.mkdir(parents=True, exist_ok=True)
    averaged = zip(task.keys, trained.average["factors"].parameters(), strict=True)
    save_file({key: each.detach().half().contiguous() for key, each in averaged}, path, {"underpaint.base": base.name})
    path.chmod(0o644)
    return path
