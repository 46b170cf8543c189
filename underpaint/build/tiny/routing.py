"""Making router and discriminator: label, train, calibrate, export. See `routing_data` for what may be learnt from."""

from __future__ import annotations

import logging
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from diffusers import AutoencoderTiny
from torch import nn
from transformers import CLIPTokenizer

from underpaint.build.autoencoders import normalise
from underpaint.build.repository import weights_of
from underpaint.build.tiny.architectures import TINY_S, TOKENS
from underpaint.build.tiny.export import EXAMPLE_BATCH, tokenizer_folder, version_folder, write_component
from underpaint.build.tiny.loop import Budget, Recipe, train
from underpaint.build.tiny.painter import Painter
from underpaint.build.tiny.routing_data import Judged, Share, load_judged
from underpaint.build.tiny.scenes import SIDE
from underpaint.build.tiny.scorers import Advised, Discriminator, Router, Scorer
from underpaint.build.tiny.skill import auc, calibration_error, platt, sigmoid
from underpaint.build.tiny.tokenizer import load_tokenizer
from underpaint.build.tiny.train_discriminator import DiscriminatorTask, Lessons, confidence, load_lessons
from underpaint.build.tiny.train_router import RouterTask, difficulty

if TYPE_CHECKING:
    from underpaint.build.tiny.workshop import Workshop

log = logging.getLogger(__name__)

FAMILY = "tiny"
SMALL = TINY_S
LESSONS = 16_000
CAPTIONS = {Share.TRAINING: 8192, Share.CALIBRATION: 512}
READING_SHARE = 0.5  # of the discriminator's time
QUANTILES = 41
_IDS = {"input_ids": torch.ones(EXAMPLE_BATCH, TOKENS).int()}
_IMAGE_AND_IDS = {"image": torch.zeros(EXAMPLE_BATCH, SIDE, SIDE, 3).to(torch.uint8), **_IDS}


def train_router(workshop: Workshop) -> None:
    tokenizer = load_tokenizer(tokenizer_folder(workshop.repository))
    reader = _reader(workshop, tokenizer)
    task = RouterTask(_judged(workshop, Share.TRAINING, tokenizer), len(tokenizer), reader, workshop.seed)
    recipe = replace(workshop.recipe("router", decay_share=0.8, average_decay=0.998), weight_decay=0.1)
    trained = train(task, recipe, workshop.checkpoint("router"), workshop.fresh)
    router = trained.average["router"].eval()
    assert isinstance(router, Router)
    held = _judged(workshop, Share.CALIBRATION, tokenizer)
    failed = 1 - held.right.numpy()
    calibrate(router, difficulty(router, held.ids).numpy(), failed, weights_of(workshop.repository, SMALL.name))
    write_router(router, workshop.repository)


def train_discriminator(workshop: Workshop) -> None:
    tokenizer = load_tokenizer(tokenizer_folder(workshop.repository))
    reader, judged = _reader(workshop, tokenizer), _judged(workshop, Share.TRAINING, tokenizer)
    task = DiscriminatorTask(_lessons(workshop, tokenizer), len(tokenizer), judged, workshop.seed)
    task.discriminator.load_state_dict(reader.state_dict())
    recipe = workshop.recipe("discriminator", decay_share=0.8, average_decay=0.998)
    recipe = replace(_part_of(recipe, 1 - READING_SHARE), learning_rate=5e-4)
    trained = train(task, recipe, workshop.checkpoint("discriminator"), workshop.fresh)
    discriminator = trained.average["discriminator"].eval()
    assert isinstance(discriminator, Discriminator)
    held = _judged(workshop, Share.CALIBRATION, tokenizer)
    advised = Advised.of(discriminator, Router.from_pretrained(workshop.repository / "router" / "1"))
    logits = confidence(advised, held.images, held.ids).numpy()
    calibrate(advised, logits, held.right.numpy(), weights_of(workshop.repository, SMALL.name))
    write_discriminator(advised, workshop.repository)


def _reader(workshop: Workshop, tokenizer: CLIPTokenizer) -> Discriminator:
    """A discriminator that has learnt to read pictures and captions, and nothing of the small variant yet."""
    task = DiscriminatorTask(_lessons(workshop, tokenizer), len(tokenizer), seed=workshop.seed)
    recipe = _part_of(workshop.recipe("discriminator", decay_share=0.4, average_decay=0.998), READING_SHARE)
    # Router and discriminator both begin with it: whoever comes second finds it done.
    trained = train(task, recipe, workshop.checkpoint("discriminator_reading"), workshop.fresh)
    reader = trained.average["discriminator"]
    assert isinstance(reader, Discriminator)
    return reader


def _lessons(workshop: Workshop, tokenizer: CLIPTokenizer) -> Lessons:
    decoder = version_folder(workshop.repository, SMALL, "vae_decoder")
    autoencoder = AutoencoderTiny.from_pretrained(decoder, torch_dtype=torch.float32)
    return load_lessons(workshop.out / "discriminator_lessons.pt", tokenizer, autoencoder, LESSONS)


def _part_of(recipe: Recipe, share: float) -> Recipe:
    return replace(recipe, budget=Budget(minutes=share * recipe.budget.minutes))


def _judged(workshop: Workshop, share: Share, tokenizer: CLIPTokenizer) -> Judged:
    """What the exported small variant paints by default, judged; kept beside the checkpoints for these very weights."""
    folder = workshop.out / f"judged_{SMALL.name}_{weights_of(workshop.repository, SMALL.name)}_{SMALL.default_steps}"
    painter = Painter(workshop.repository, FAMILY, SMALL.name)
    paint = partial(painter.paint, num_inference_steps=SMALL.default_steps, guidance_scale=SMALL.default_guidance)
    return load_judged(folder, share, CAPTIONS[share], paint, tokenizer)


def calibrate(scorer: Scorer, logits: np.ndarray, happened: np.ndarray, small_weights: str) -> None:
    """Make probabilities of its logits, and note down which scores it gives: on captions that it did not learn from."""
    scale, offset = platt(logits, happened)
    scores = sigmoid(scale * logits + offset)
    quantiles = np.quantile(scores, np.linspace(0, 1, QUANTILES))
    scorer.config.update({
        "scale": scale,
        "offset": offset,
        "quantiles": [round(float(quantile), 6) for quantile in quantiles],
        "small_weights": small_weights,
        "image_size": SIDE,
    })  # fmt: skip
    log.info(
        "%s: AUC %.3f, calibration error %.3f, on %d pictures of which %.1f%% are right",
        type(scorer).__name__, auc(scores, happened), calibration_error(scores, happened), len(scores),
        100 * (happened.mean() if isinstance(scorer, Advised) else 1 - happened.mean()),
    )  # fmt: skip


class RouterGraph(nn.Module):
    """input_ids int32 [B, 24] to score [B, 1], the chance that the small variant fails."""

    def __init__(self, router: Router) -> None:
        super().__init__()
        self.weights = router

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        return self.weights.probability(self.weights(input_ids.long()))[:, None]


class DiscriminatorGraph(nn.Module):
    """image uint8 [B, 64, 64, 3] and input_ids int32 [B, 24] to score [B, 1], the chance that the image is right."""

    def __init__(self, advised: Advised) -> None:
        super().__init__()
        self.weights = advised

    def forward(self, image: torch.Tensor, input_ids: torch.Tensor) -> torch.Tensor:
        return self.weights.probability(self.weights(normalise(image), input_ids.long()))[:, None]


def write_router(router: Router, repository: Path) -> None:
    write_component(repository / "router" / "1", router, RouterGraph, _IDS, "score")


def write_discriminator(advised: Advised, repository: Path) -> None:
    write_component(repository / "discriminator" / "1", advised, DiscriminatorGraph, _IMAGE_AND_IDS, "score")
