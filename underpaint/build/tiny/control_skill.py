"""Whether ControlNets do what they are for: how far things stand from where they are told to, and how much of their
outline is right, with and without them.

Scenes of one thing, placed where the caption leaves it free; the truth is the drawn picture, read in the same way.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from underpaint.addons.residuals import EncoderShape
from underpaint.build.autoencoders import denormalise
from underpaint.build.tiny.architectures import VariantShape, build_scheduler
from underpaint.build.tiny.control_images import CONTROL_IMAGES, placed_freely
from underpaint.build.tiny.data import EVALUATION_STREAM, pixels
from underpaint.build.tiny.evaluate import load_variant
from underpaint.build.tiny.export import Variant, tokenizer_folder
from underpaint.build.tiny.scenes import Scene, caption, scene_at
from underpaint.build.tiny.spread import SpreadControlNet
from underpaint.build.tiny.tokenizer import encode, load_tokenizer

SCENES = 48
_FIGURE = 40.0  # levels from the background, from which on a pixel is a thing's


def evaluate(repository: Path, base: VariantShape, scenes: int = SCENES) -> dict[str, dict[str, float]]:
    """For each ControlNet, and for none: `position_error`, the mean distance in pixels, and `overlap`, the mean
    intersection over union of the painted and the drawn thing."""
    variant, drawn = load_variant(repository, base), list(islice(_scenes(), scenes))
    report = {"none": compare(paint(base, variant, repository, drawn, None), drawn)}
    for name in CONTROL_IMAGES:
        folder = repository / f"controlnet_{name}" / "1"
        if folder.is_dir():
            report[name] = compare(paint(base, variant, repository, drawn, name), drawn)
    return report


def _scenes() -> Iterator[Scene]:
    rng, index = random.Random(EVALUATION_STREAM), 0
    while True:
        scene = scene_at(EVALUATION_STREAM, index)
        index += 1
        if len(scene.things) == 1:
            yield placed_freely(rng, scene)


@torch.no_grad()
def paint(
    base: VariantShape, variant: Variant, repository: Path, scenes: list[Scene], controlnet: str | None, seed: int = 0
) -> np.ndarray:
    """Pictures uint8 [N, 64, 64, 3] of the scenes' captions, by diffusers' classes, with their control images."""
    tokenizer, scheduler = load_tokenizer(tokenizer_folder(repository)), build_scheduler(base)
    scheduler.set_timesteps(base.default_steps)
    said = [*[""] * len(scenes), *(caption(scene) for scene in scenes)]
    states = variant.text_encoder(torch.tensor(encode(tokenizer, said)).long()).last_hidden_state
    x = torch.randn(len(scenes), 16, 8, 8, generator=torch.Generator().manual_seed(seed))
    control = None if controlnet is None else _control(repository, variant, scenes, controlnet)
    for t in scheduler.timesteps:
        rows = torch.cat([x, x])
        added = {} if control is None else control(rows, t, states)
        unguided, guided = variant.unet(rows, t, states, **added).sample.chunk(2)
        x = scheduler.step(unguided + base.default_guidance * (guided - unguided), t, x).prev_sample
    decoded = variant.autoencoder.decoder(x / variant.autoencoder.config.scaling_factor)
    return denormalise(decoded).numpy()


def _control(repository: Path, variant: Variant, scenes: list[Scene], name: str) -> Callable[..., dict[str, Any]]:
    """What a ControlNet adds to the UNet's rows, which are those of the negative prompts and then of the prompts."""
    net = SpreadControlNet.load(repository / f"controlnet_{name}" / "1", EncoderShape.of(variant.unet.config))
    told = torch.from_numpy(np.stack([CONTROL_IMAGES[name](scene) for scene in scenes])).permute(0, 3, 1, 2) / 255

    def added(rows: torch.Tensor, t: torch.Tensor, states: torch.Tensor) -> dict[str, Any]:
        down, middle = net(rows, t, states, torch.cat([told, told]))
        return {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}

    return added


def compare(painted: np.ndarray, scenes: list[Scene]) -> dict[str, float]:
    masks, truth = figures(painted), figures(pixels(scenes).numpy())
    away = [np.linalg.norm(centre(mask) - centre(true)) for mask, true in zip(masks, truth, strict=True)]
    union = np.maximum((masks | truth).sum((1, 2)), 1)
    return {
        "position_error": float(np.mean(away)),
        "overlap": float(np.mean((masks & truth).sum((1, 2)) / union)),
    }


def figures(pictures: np.ndarray) -> np.ndarray:
    """Which pixels are not the background, bool [N, 64, 64]; the background is the median of the frame."""
    frame = np.ones(pictures.shape[1:3], bool)
    frame[2:-2, 2:-2] = False
    background = np.median(pictures[:, frame].astype(np.float32), axis=1)
    return np.asarray(np.linalg.norm(pictures - background[:, None, None], axis=-1) > _FIGURE)


def centre(mask: np.ndarray) -> np.ndarray:
    """(x, y) in pixels; the middle of the picture where there is nothing."""
    rows, columns = np.nonzero(mask)
    return np.array([columns.mean(), rows.mean()]) if len(rows) else np.array([31.5, 31.5])
