"""The workshop: every part of making the family, by name, and where each finds and leaves its things."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from diffusers import AutoencoderTiny

from underpaint.build.tiny import evaluate, export
from underpaint.build.tiny.architectures import VARIANTS, VariantShape
from underpaint.build.tiny.data import load_corpus
from underpaint.build.tiny.loop import Budget, Recipe, train
from underpaint.build.tiny.tokenizer import load_tokenizer, write_tokenizer
from underpaint.build.tiny.train_autoencoder import AutoencoderTask, psnr, set_scaling_factor
from underpaint.build.tiny.train_clip import ClipTask, load_pairs
from underpaint.build.tiny.train_variant import VariantTask

log = logging.getLogger(__name__)

CORPUS_SCENES = 60_000
CLIP_SCENES = 40_000
MINUTES = {"clip": 10.0, "tiny-l_autoencoder": 22.0, "tiny-l": 99.0, "tiny-s_autoencoder": 32.5, "tiny-s": 80.0}


@dataclass(frozen=True)
class Workshop:
    """Where things are and how they are run; every part takes this and nothing else."""

    out: Path  # checkpoints and caches
    repository: Path  # the exported family
    seed: int
    minutes: float | None
    fresh: bool
    from_exported: bool = False  # a part without a checkpoint goes on from the repository's weights

    def recipe(self, part: str, decay_share: float, average_decay: float) -> Recipe:
        budget = Budget(minutes=self.minutes or MINUTES[part])
        return Recipe(budget, decay_share=decay_share, average_decay=average_decay, seed=self.seed)

    def checkpoint(self, part: str) -> Path:
        return self.out / f"{part}.pt"

    def autoencoder(self, variant: str) -> Path:
        return self.out / f"{variant}_autoencoder"


def train_autoencoder(workshop: Workshop, shape: VariantShape) -> None:
    part = f"{shape.name}_autoencoder"
    task = AutoencoderTask(shape.autoencoder, workshop.seed)
    recipe = workshop.recipe(part, decay_share=0.5, average_decay=0.998)
    trained = train(task, recipe, workshop.checkpoint(part), workshop.fresh)
    autoencoder = trained.average["autoencoder"].to(memory_format=torch.contiguous_format)
    assert isinstance(autoencoder, AutoencoderTiny)
    set_scaling_factor(autoencoder)
    log.info("%s: %d steps, PSNR %.2f dB", part, trained.progress.step, psnr(autoencoder))
    autoencoder.save_pretrained(workshop.autoencoder(shape.name))


def train_variant(workshop: Workshop, shape: VariantShape) -> None:
    if workshop.from_exported:
        _take_exported_autoencoder(workshop, shape)
    autoencoder = AutoencoderTiny.from_pretrained(workshop.autoencoder(shape.name))
    tokenizer = load_tokenizer(export.tokenizer_folder(workshop.repository))
    corpus = load_corpus(workshop.out / f"{shape.name}_corpus.pt", autoencoder, tokenizer, CORPUS_SCENES)
    task = VariantTask(shape, corpus, len(tokenizer), workshop.seed)
    if workshop.from_exported:
        exported = evaluate.load_variant(workshop.repository, shape)
        task.unet.load_state_dict(exported.unet.state_dict())
        task.text_encoder.load_state_dict(exported.text_encoder.state_dict())
    recipe = workshop.recipe(shape.name, decay_share=0.4, average_decay=0.999)
    trained = train(task, recipe, workshop.checkpoint(shape.name), workshop.fresh)
    log.info("%s: %d steps, loss %.4f", shape.name, trained.progress.step, trained.progress.recent_loss)


def _take_exported_autoencoder(workshop: Workshop, shape: VariantShape) -> None:
    """A variant that goes on from exported weights needs the latent space that they were trained in."""
    folder = workshop.autoencoder(shape.name)
    if not folder.exists():
        exported = export.version_folder(workshop.repository, shape, "vae_decoder")
        AutoencoderTiny.from_pretrained(exported, torch_dtype=torch.float32).save_pretrained(folder)


def train_clip(workshop: Workshop) -> None:
    tokenizer = load_tokenizer(export.tokenizer_folder(workshop.repository))
    pairs = load_pairs(workshop.out / "clip_pairs.pt", tokenizer, CLIP_SCENES)
    recipe = workshop.recipe("clip", decay_share=0.6, average_decay=0.998)
    trained = train(ClipTask(pairs, len(tokenizer), workshop.seed), recipe, workshop.checkpoint("clip"), workshop.fresh)
    log.info("clip: %d steps, loss %.4f", trained.progress.step, trained.progress.recent_loss)


def export_family(workshop: Workshop) -> None:
    for shape in VARIANTS.values():
        export.export_variant(shape, workshop.out, workshop.repository)


def evaluate_family(workshop: Workshop) -> None:
    """Judge what the repository holds; prints one JSON object and leaves it beside the checkpoints."""
    reports = {name: evaluate.evaluate_exported(workshop.repository, shape) for name, shape in VARIANTS.items()}
    text = json.dumps(reports, indent=2)
    (workshop.out / "evaluation.json").write_text(text + "\n")
    print(text)


def _parts() -> dict[str, Callable[[Workshop], None]]:
    """Every part by name, in the order of a full run."""
    parts: dict[str, Callable[[Workshop], None]] = {
        "tokenizer": lambda workshop: write_tokenizer(export.tokenizer_folder(workshop.repository))
    }
    for name, shape in VARIANTS.items():
        parts[f"{name}_autoencoder"] = partial(train_autoencoder, shape=shape)
        parts[name] = partial(train_variant, shape=shape)
    parts["clip"] = train_clip
    return {**parts, "export": export_family, "evaluate": evaluate_family}


PARTS = _parts()
