"""Whether LoRAs do what they are for, with and without them, on scenes and seeds that training has not seen.

By the judge's way of reading, which compares a picture with everything that could have been drawn:

- ``palette``, ``pastel``, ``night``: whether background and things have the colours that the style gives that scene;
- ``outline``: whether the thing is hollow, better explained by its drawn outline than by the whole of it;
- ``moon``, ``arrow``: whether the new shape fits the painted figure better than any shape of the family.

``follows`` is the share of pictures that do, ``content`` what a style must leave alone: the share of things whose
shape, size and place are as told.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image
from safetensors.torch import load_file

from underpaint.build.tiny import restyle
from underpaint.build.tiny.architectures import VariantShape
from underpaint.build.tiny.control_skill import figures
from underpaint.build.tiny.data import EVALUATION_STREAM
from underpaint.build.tiny.evaluate import Sampling, load_variant, paint
from underpaint.build.tiny.export import tokenizer_folder
from underpaint.build.tiny.judge import CLARITY, FRAME, judge
from underpaint.build.tiny.scenes import SHAPES, SIDE, SIZES, SUPERSAMPLING, Scene, caption, stencil, stream
from underpaint.build.tiny.tokenizer import load_tokenizer
from underpaint.build.tiny.train_addons import ADDONS, AddonShape, adapted

SCENES = 48
_REACH = 3  # pixels that a template is moved about
_ONE_THING = frozenset({"outline", *restyle.SHAPES})


@dataclass(frozen=True)
class Skill:
    """Shares of 1; ``content`` is None for shapes, which replace some of it."""

    follows: float
    content: float | None


def evaluate(repository: Path, base: VariantShape, store: Path, scenes: int = SCENES) -> dict[str, dict[str, Skill]]:
    """For each LoRA of the family in ``store``: ``with`` it and ``without``."""
    report = {}
    for shape in ADDONS.values():
        path = store / f"{shape.name}.safetensors"
        if path.is_file():
            told = scenes_for(shape.name, scenes)
            without = paint_with(shape, base, repository, None, told)
            report[shape.name] = {
                "with": skill(shape.name, paint_with(shape, base, repository, path, told), told),
                "without": skill(shape.name, without, told),
            }
    return report


def scenes_for(name: str, count: int) -> list[Scene]:
    """Of one thing where a figure is looked at as a whole."""
    candidates = stream(EVALUATION_STREAM, 20 * count)
    wanted = (scene for scene in candidates if len(scene.things) == 1 or name not in _ONE_THING)
    return list(islice(wanted, count))


def captions_for(name: str, scenes: Sequence[Scene]) -> list[str]:
    if name in restyle.SHAPES:
        return [restyle.caption_with_shape(scene, restyle.SHAPES[name], 0) for scene in scenes]
    return [caption(scene) for scene in scenes]


def paint_with(
    shape: AddonShape, base: VariantShape, repository: Path, file: Path | None, scenes: Sequence[Scene]
) -> np.ndarray:
    """Pictures uint8 [N, 64, 64, 3] by diffusers' classes and PEFT."""
    variant = load_variant(repository, base)
    if file is not None:
        adapted(variant, shape, load_file(file))
    sampling = Sampling(base.default_steps, base.default_guidance)
    tokenizer = load_tokenizer(tokenizer_folder(repository))
    return np.asarray(paint(base, variant, tokenizer, captions_for(shape.name, scenes), sampling))


def skill(name: str, pictures: np.ndarray, scenes: Sequence[Scene]) -> Skill:
    """What the pictures of some scenes show of a LoRA."""
    if name in restyle.SHAPES:
        return Skill(float(np.mean([nearest_shape(mask) == name for mask in figures(pictures)])), None)
    if name == "outline":
        return Skill(float(np.mean(are_hollow(pictures, scenes))), None)
    verdicts = judge(pictures, [restyle.RECOLOURED[name](scene) for scene in scenes])
    follows = [each.background and all(thing.colour for thing in each.things) for each in verdicts]
    things = [thing for each in verdicts for thing in each.things]
    return Skill(float(np.mean(follows)), float(np.mean([t.shape and t.size and t.place for t in things])))


# Hollow things --------------------------------------------------------------------------------------------------


def are_hollow(pictures: np.ndarray, scenes: Sequence[Scene]) -> np.ndarray:
    """Which pictures' things are explained by their outlines better than by the whole, and as well as the judge wants
    what it reads to be, [N]."""
    outlined = np.stack([np.asarray(restyle.outline(scene)) for scene in scenes])
    whole = np.stack([np.asarray(restyle.render(scene)) for scene in scenes])
    drawn, plain = (_explained(_on_nothing(pictures), _on_nothing(each)) for each in (outlined, whole))
    return np.asarray((drawn > plain) & (drawn > CLARITY))


def _on_nothing(pictures: np.ndarray) -> np.ndarray:
    """float32 [N, 64, 64, 3], without the background, which is the median of the frame."""
    frame = np.ones(pictures.shape[1:3], bool)
    frame[FRAME:-FRAME, FRAME:-FRAME] = False
    return pictures - np.median(pictures[:, frame].astype(np.float32), axis=1)[:, None, None]


def _explained(painted: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """The share of each picture's energy that a drawing explains, at the best place within reach, [N]."""
    energy = np.maximum(np.square(painted).sum((1, 2, 3)), 1)
    moves = [(y - _REACH, x - _REACH) for y, x in np.ndindex(2 * _REACH + 1, 2 * _REACH + 1)]
    left = [np.square(painted - np.roll(drawn, move, axis=(1, 2))).sum((1, 2, 3)) for move in moves]
    return 1 - np.min(left, axis=0) / energy


# Shapes ---------------------------------------------------------------------------------------------------------


def nearest_shape(mask: np.ndarray) -> str | None:
    """The name of the shape, old or new, that fits a figure, bool [64, 64], best; None where there is no figure."""
    rows, columns = np.nonzero(mask)
    if not len(rows):
        return None
    centred = _shifted(mask, SIDE // 2 - round(columns.mean()), SIDE // 2 - round(rows.mean()))
    fits: dict[str, float] = {}
    for name, template in _templates():
        for x, y in np.ndindex(2 * _REACH + 1, 2 * _REACH + 1):
            moved = _shifted(template, x - _REACH, y - _REACH)
            overlap = float((moved & centred).sum() / (moved | centred).sum())
            fits[name] = max(fits.get(name, 0.0), overlap)
    return max(fits, key=lambda name: fits[name])


@functools.cache
def _templates() -> tuple[tuple[str, np.ndarray], ...]:
    """Every shape in every size, its mass in the middle."""
    drawn = [(shape, stencil(shape, size, "plain")[0]) for shape in SHAPES for size in SIZES]
    drawn += [
        (new.word, new.drawn(round(extent * SUPERSAMPLING)))
        for new in restyle.SHAPES.values()
        for extent in SIZES.values()
    ]
    return tuple((name, _in_the_middle(mask)) for name, mask in drawn)


def _in_the_middle(mask: Image.Image) -> np.ndarray:
    canvas = Image.new("L", (SIDE * SUPERSAMPLING,) * 2, 0)
    canvas.paste(mask, ((canvas.width - mask.width) // 2, (canvas.height - mask.height) // 2))
    small = np.asarray(canvas.reduce(SUPERSAMPLING)) > 127
    rows, columns = np.nonzero(small)
    return _shifted(small, SIDE // 2 - round(columns.mean()), SIDE // 2 - round(rows.mean()))


def _shifted(mask: np.ndarray, right: int, down: int) -> np.ndarray:
    return np.roll(mask, (down, right), axis=(0, 1))
