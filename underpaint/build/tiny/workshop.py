"""The workshop: every part of making the family, by name, and where each finds and leaves its things."""

from __future__ import annotations

import copy
import dataclasses
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderTiny
from torch import nn

from underpaint.build.controlnet_configs import PREFIX
from underpaint.build.tiny import addon_skill, checkpoints, control_skill, evaluate, export, routing
from underpaint.build.tiny.architectures import (
    AUTOENCODERS,
    TEACHER,
    TOKENS,
    VARIANTS,
    AutoencoderShape,
    Distillation,
    VariantShape,
    build_unet,
)
from underpaint.build.tiny.control_images import CONTROL_IMAGES
from underpaint.build.tiny.data import load_corpus
from underpaint.build.tiny.distill import StepDistillation
from underpaint.build.tiny.grow import grow_unet
from underpaint.build.tiny.loop import Budget, Recipe, train
from underpaint.build.tiny.scenes import SIDE
from underpaint.build.tiny.tokenizer import load_tokenizer, write_tokenizer
from underpaint.build.tiny.train_addons import ADDON_BASE, ADDONS, train_addon
from underpaint.build.tiny.train_autoencoder import AutoencoderTask, psnr, set_scaling_factor
from underpaint.build.tiny.train_clip import ClipTask, build_clip, load_exported, load_pairs
from underpaint.build.tiny.train_controlnets import train_controlnet
from underpaint.build.tiny.train_variant import VariantTask
from underpaint.errors import NotFound

log = logging.getLogger(__name__)

VARIANTS_AND_TEACHERS = {TEACHER.name: TEACHER, **VARIANTS}
CORPUS_SCENES = 60_000
CLIP_GROUPS = 15_000
MINUTES = {
    "autoencoder-f4": 22.0,
    "autoencoder-f8": 62.0,
    "teacher": 211.0,
    "tiny-m": 104.0,
    "tiny-l": 104.0,
    "tiny-s": 40.0,
    "clip": 40.0,
    "router": 3.0,
    "discriminator": 50.0,
    "addons": 8.0,  # each
    "controlnets": 15.0,  # each
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

    @property
    def lora_store(self) -> Path:
        return self.repository.absolute().parent / "addons" / "lora"

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
    elif shape.grown_from is not None:
        _grow(task, workshop.checkpoint(shape.grown_from), VARIANTS[shape.grown_from])
    recipe = workshop.recipe(shape.name, decay_share=0.4, average_decay=0.999)
    trained = train(task, recipe, workshop.checkpoint(shape.name), workshop.fresh)
    log.info("%s: %d steps, loss %.4f", shape.name, trained.progress.step, trained.progress.recent_loss)


def _grow(task: VariantTask, checkpoint: Path, shallow: VariantShape) -> None:
    """Start from the averaged weights of a shallower variant, text encoder and all."""
    saved = checkpoints.load(checkpoint)
    if saved is None:
        raise NotFound(f"{checkpoint} is missing: train {shallow.name} before what is grown from it")
    unet = build_unet(shallow)
    modules = nn.ModuleDict({"text_encoder": task.text_encoder, "unet": unet, "reader": task.reader})
    modules.load_state_dict(saved["average"])
    grow_unet(task.unet, unet)


def distill(workshop: Workshop, shape: VariantShape, distillation: Distillation) -> None:
    """Start from the teacher's averaged weights."""
    saved = checkpoints.load(workshop.checkpoint(distillation.teacher))
    if saved is None:
        missing = workshop.checkpoint(distillation.teacher)
        raise NotFound(f"{missing} is missing: train {distillation.teacher} before {shape.name} is distilled from it")
    task = _variant_task(workshop, shape)
    task.modules.load_state_dict(saved["average"])
    teacher = copy.deepcopy(task.modules)
    student = StepDistillation(task, teacher, distillation.guidance_scale, shape.default_steps)
    recipe = workshop.recipe(shape.name, decay_share=0.6, average_decay=0.998)
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
    task = ClipTask(load_pairs(workshop.out / "clip_pairs.pt", tokenizer, CLIP_GROUPS), len(tokenizer), workshop.seed)
    if workshop.from_exported:
        load_exported(task.clip, workshop.repository)
    recipe = workshop.recipe("clip", decay_share=0.6, average_decay=0.998)
    trained = train(task, recipe, workshop.checkpoint("clip"), workshop.fresh)
    log.info("clip: %d steps, loss %.4f", trained.progress.step, trained.progress.recent_loss)


def export_family(workshop: Workshop) -> None:
    for shape in VARIANTS.values():
        if workshop.from_exported:
            export.write_variant(shape, evaluate.load_variant(workshop.repository, shape), workshop.repository)
        else:
            export.export_variant(shape, workshop.out, workshop.repository)
    clip = build_clip(len(load_tokenizer(export.tokenizer_folder(workshop.repository))))
    saved = None if workshop.from_exported else checkpoints.load(workshop.checkpoint("clip"))
    if workshop.from_exported:
        load_exported(clip, workshop.repository)
    elif saved is None:
        log.warning("clip: no checkpoint in %s, exporting random weights", workshop.out)
    else:
        nn.ModuleDict({"clip": clip}).load_state_dict(saved["average"])
    export.write_clip(clip, workshop.repository)


def train_addons(workshop: Workshop) -> None:
    """The LoRAs, one after the other; they need an exported base."""
    recipe = workshop.recipe("addons", decay_share=0.6, average_decay=0.99)
    for shape in ADDONS.values():
        base, told = VARIANTS[ADDON_BASE], {"fresh": workshop.fresh, "from_exported": workshop.from_exported}
        train_addon(shape, base, workshop.repository, workshop.out, workshop.lora_store, recipe, **told)


def train_controlnets(workshop: Workshop) -> None:
    """The ControlNets, one after the other; they need an exported base."""
    recipe = workshop.recipe("controlnets", decay_share=0.6, average_decay=0.995)
    for name in CONTROL_IMAGES:
        base = VARIANTS[ADDON_BASE]
        controlnet = train_controlnet(name, base, workshop.repository, workshop.out, recipe, fresh=workshop.fresh)
        folder = workshop.repository / f"{PREFIX}{name}" / "1"
        _, *latents = export.example_latents(base).shape
        export.write_controlnet(folder, controlnet, latents, (TOKENS, base.text_width), (SIDE, SIDE, 3))


def evaluate_family(workshop: Workshop) -> None:
    """Judge what the repository holds; prints one JSON object and leaves it beside the checkpoints."""
    reports = {name: evaluate.evaluate_exported(workshop.repository, shape) for name, shape in VARIANTS.items()}
    _tell(workshop, "evaluation", {**reports, **_skills(workshop)})


def evaluate_addons(workshop: Workshop) -> None:
    """Judge LoRAs and ControlNets alone."""
    _tell(workshop, "skills", _skills(workshop))


def _skills(workshop: Workshop) -> dict[str, Any]:
    base = VARIANTS[ADDON_BASE]
    return {
        "loras": addon_skill.evaluate(workshop.repository, base, workshop.lora_store),
        "controlnets": control_skill.evaluate(workshop.repository, base),
    }


def _tell(workshop: Workshop, name: str, report: dict[str, Any]) -> None:
    text = json.dumps(report, indent=2, default=dataclasses.asdict)
    workshop.out.mkdir(parents=True, exist_ok=True)
    (workshop.out / f"{name}.json").write_text(text + "\n")
    print(text)


def _parts() -> dict[str, Callable[[Workshop], None]]:
    """Every part by name, in the order of a full run."""
    parts: dict[str, Callable[[Workshop], None]] = {
        "tokenizer": lambda workshop: write_tokenizer(export.tokenizer_folder(workshop.repository))
    }
    for autoencoder in AUTOENCODERS.values():
        parts[autoencoder.name] = partial(train_autoencoder, shape=autoencoder)
    for variant in VARIANTS_AND_TEACHERS.values():
        if variant.distillation is None:
            parts[variant.name] = partial(train_variant, shape=variant)
        else:
            parts[variant.name] = partial(distill, shape=variant, distillation=variant.distillation)
    parts["clip"] = train_clip
    parts["export"] = export_family
    # These learn from what the exported small variant paints, and export themselves.
    parts["router"], parts["discriminator"] = routing.train_router, routing.train_discriminator
    parts["addons"], parts["controlnets"] = train_addons, train_controlnets
    parts["evaluate"], parts["skills"] = evaluate_family, evaluate_addons
    return parts


PARTS = _parts()
