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
from torch import nn

from underpaint.build.tiny import checkpoints, evaluate, export
from underpaint.build.tiny.architectures import AUTOENCODERS, VARIANTS, AutoencoderShape, Distillation, VariantShape
from underpaint.build.tiny.data import load_corpus
from underpaint.build.tiny.distill_guidance import GuidanceDistillation
from underpaint.build.tiny.loop import Budget, Recipe, train
from underpaint.build.tiny.tokenizer import load_tokenizer, write_tokenizer
from underpaint.build.tiny.train_autoencoder import AutoencoderTask, psnr, set_scaling_factor
from underpaint.build.tiny.train_clip import ClipTask, build_clip, load_pairs
from underpaint.build.tiny.train_variant import VariantTask
from underpaint.errors import NotFound

log = logging.getLogger(__name__)

CORPUS_SCENES = 60_000
CLIP_SCENES = 40_000
MINUTES = {
    "autoencoder-f4": 22.0,
    "autoencoder-f8": 62.0,
    "tiny-l": 115.0,
    "tiny-m": 100.0,
    "tiny-s": 12.0,
    "clip": 9.0,
}


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


def train_autoencoder(workshop: Workshop, shape: AutoencoderShape) -> None:
    task = AutoencoderTask(shape, workshop.seed)
    recipe = workshop.recipe(shape.name, decay_share=0.5, average_decay=0.998)
    trained = train(task, recipe, workshop.checkpoint(shape.name), workshop.fresh)
    autoencoder = trained.average["autoencoder"].to(memory_format=torch.contiguous_format)
    assert isinstance(autoencoder, AutoencoderTiny)
    set_scaling_factor(autoencoder)
    log.info("%s: %d steps, PSNR %.2f dB", shape.name, trained.progress.step, psnr(autoencoder))
    autoencoder.save_pretrained(workshop.out / shape.name)


def train_variant(workshop: Workshop, shape: VariantShape) -> None:
    task = _variant_task(workshop, shape)
    if workshop.from_exported:
        exported = evaluate.load_variant(workshop.repository, shape)
        task.unet.load_state_dict(exported.unet.state_dict())
        task.text_encoder.load_state_dict(exported.text_encoder.state_dict())
    recipe = workshop.recipe(shape.name, decay_share=0.4, average_decay=0.999)
    trained = train(task, recipe, workshop.checkpoint(shape.name), workshop.fresh)
    log.info("%s: %d steps, loss %.4f", shape.name, trained.progress.step, trained.progress.recent_loss)


def distill_guidance(workshop: Workshop, shape: VariantShape, distillation: Distillation) -> None:
    """Go on from the teacher's averaged weights."""
    task = _variant_task(workshop, shape)
    teacher = checkpoints.load(workshop.checkpoint(distillation.teacher))
    if teacher is None:
        missing = workshop.checkpoint(distillation.teacher)
        raise NotFound(f"{missing} is missing: train {distillation.teacher} before {shape.name} is distilled from it")
    task.modules.load_state_dict(teacher["average"])
    recipe = workshop.recipe(shape.name, decay_share=0.6, average_decay=0.998)
    student = GuidanceDistillation(task, distillation.guidance_scale)
    trained = train(student, recipe, workshop.checkpoint(shape.name), workshop.fresh)
    log.info("%s: %d steps, loss %.4f", shape.name, trained.progress.step, trained.progress.recent_loss)


def _variant_task(workshop: Workshop, shape: VariantShape) -> VariantTask:
    """The task with random weights, on the latents of the variant's finished autoencoder."""
    name = shape.autoencoder.name
    if workshop.from_exported:
        _take_exported_autoencoder(workshop, shape)
    autoencoder = AutoencoderTiny.from_pretrained(workshop.out / name)
    tokenizer = load_tokenizer(export.tokenizer_folder(workshop.repository))
    corpus = load_corpus(workshop.out / f"{name}_corpus.pt", autoencoder, tokenizer, CORPUS_SCENES)
    return VariantTask(shape, corpus, len(tokenizer), workshop.seed)


def _take_exported_autoencoder(workshop: Workshop, shape: VariantShape) -> None:
    """A variant that goes on from exported weights needs the latent space that they were trained in."""
    folder = workshop.out / shape.autoencoder.name
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
    clip = build_clip(len(load_tokenizer(export.tokenizer_folder(workshop.repository))))
    saved = checkpoints.load(workshop.checkpoint("clip"))
    if saved is None:
        log.warning("clip: no checkpoint in %s, exporting random weights", workshop.out)
    else:
        nn.ModuleDict({"clip": clip}).load_state_dict(saved["average"])
    export.write_clip(clip, workshop.repository)


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
    for autoencoder in AUTOENCODERS.values():
        parts[autoencoder.name] = partial(train_autoencoder, shape=autoencoder)
    for variant in VARIANTS.values():
        if variant.distillation is None:
            parts[variant.name] = partial(train_variant, shape=variant)
        else:
            parts[variant.name] = partial(distill_guidance, shape=variant, distillation=variant.distillation)
    parts["clip"] = train_clip
    return {**parts, "export": export_family, "evaluate": evaluate_family}


PARTS = _parts()
