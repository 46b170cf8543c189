"""The door: `underpaint train tiny`, or `python -m underpaint.build.tiny`.

Without `--only` it does everything in order. Every training part goes on from its checkpoint, so a killed
run is simply started again; parts may also run side by side in processes of their own.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderTiny

from underpaint.build.tiny import evaluate, export
from underpaint.build.tiny.architectures import VARIANTS, VariantShape
from underpaint.build.tiny.data import load_corpus
from underpaint.build.tiny.loop import Budget, Recipe, train
from underpaint.build.tiny.tokenizer import load_tokenizer, write_tokenizer
from underpaint.build.tiny.train_autoencoder import AutoencoderTask, psnr, set_scaling_factor
from underpaint.build.tiny.train_variant import VariantTask

log = logging.getLogger(__name__)

CORPUS_SCENES = 60_000
MINUTES = {"tiny-l_autoencoder": 12.0, "tiny-s_autoencoder": 12.0, "tiny-l": 85.0, "tiny-s": 38.0}


@dataclass(frozen=True)
class Workshop:
    """Where things are and how they are run; every part takes this and nothing else."""

    out: Path  # checkpoints and caches
    repository: Path  # the exported family
    seed: int
    minutes: float | None
    fresh: bool

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
    autoencoder = AutoencoderTiny.from_pretrained(workshop.autoencoder(shape.name))
    tokenizer = load_tokenizer(export.tokenizer_folder(workshop.repository))
    corpus = load_corpus(workshop.out / f"{shape.name}_corpus.pt", autoencoder, tokenizer, CORPUS_SCENES)
    task = VariantTask(shape, corpus, len(tokenizer), workshop.seed)
    recipe = workshop.recipe(shape.name, decay_share=0.4, average_decay=0.999)
    trained = train(task, recipe, workshop.checkpoint(shape.name), workshop.fresh)
    log.info("%s: %d steps, loss %.4f", shape.name, trained.progress.step, trained.progress.recent_loss)


def export_family(workshop: Workshop) -> None:
    for shape in VARIANTS.values():
        export.export_variant(shape, workshop.out, workshop.repository)


def evaluate_family(workshop: Workshop) -> None:
    for shape in VARIANTS.values():
        print(json.dumps(evaluate.evaluate_exported(workshop.repository, shape), indent=2))


def _parts() -> dict[str, Callable[[Workshop], None]]:
    """Every part by name, in the order of a full run."""
    parts: dict[str, Callable[[Workshop], None]] = {
        "tokenizer": lambda workshop: write_tokenizer(export.tokenizer_folder(workshop.repository))
    }
    for name, shape in VARIANTS.items():
        parts[f"{name}_autoencoder"] = lambda workshop, shape=shape: train_autoencoder(workshop, shape)  # type: ignore[misc]
        parts[name] = lambda workshop, shape=shape: train_variant(workshop, shape)  # type: ignore[misc]
    return {**parts, "export": export_family, "evaluate": evaluate_family}


PARTS = _parts()


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> argparse.ArgumentParser:
    parser = subparsers.add_parser("tiny", help="train the tiny family", description=__doc__)
    add_arguments(parser)
    parser.set_defaults(run=run)
    return parser


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--only", metavar="PART,…", help=f"some of: {', '.join(PARTS)}")
    parser.add_argument("--minutes", type=float, help="training time of each part, instead of its own")
    parser.add_argument("--out", type=Path, default=Path("runs/tiny"), help="checkpoints and caches")
    parser.add_argument("--repository", type=Path, default=Path("model_repository"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, help="CPU threads; all cores by default")
    resuming = parser.add_mutually_exclusive_group()
    resuming.add_argument("--resume", dest="fresh", action="store_false", default=False, help="the default")
    resuming.add_argument("--fresh", action="store_true", help="ignore checkpoints")


def run(args: argparse.Namespace) -> int:
    names = args.only.split(",") if args.only else list(PARTS)
    unknown = [name for name in names if name not in PARTS]
    if unknown:
        log.error("unknown part %s; parts are %s", ", ".join(unknown), ", ".join(PARTS))
        return 2
    if args.threads:
        torch.set_num_threads(args.threads)
    workshop = Workshop(args.out, args.repository, args.seed, args.minutes, args.fresh)
    for name in names:
        PARTS[name](workshop)
    return 0


def main() -> int:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    parser = argparse.ArgumentParser(prog="python -m underpaint.build.tiny", description=__doc__)
    add_arguments(parser)
    return run(parser.parse_args())
