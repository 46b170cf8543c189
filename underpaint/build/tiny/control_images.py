"""What the family's ControlNets are told by, drawn from scenes: images uint8 [64, 64, 3], white on black.

They are to be of use where words say little. So their scenes are placed more freely than those that the variants have
seen: wherever the caption still tells the truth.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Mapping

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from underpaint.build.tiny.scenes import SIDE, SIZES, SUPERSAMPLING, Scene, Thing, stencil

ControlImage = Callable[[Scene], np.ndarray]

_EDGE = 1.5  # pixels
_FRAME = 3.0  # pixels around every thing, so that it stays a thing and its background a frame
_AROUND_THE_MIDDLE = 8.0  # pixels that are still "in the centre"


def layout(scene: Scene) -> np.ndarray:
    """Where things are and how large: a disc for each, whatever its shape."""
    canvas = _canvas()
    draw = ImageDraw.Draw(canvas)
    for thing, (x, y) in zip(scene.things, scene.centres, strict=True):
        radius = SIZES[thing.size] / 2
        draw.ellipse([SUPERSAMPLING * each for each in (x - radius, y - radius, x + radius, y + radius)], fill=255)
    return _finished(canvas)


def edges(scene: Scene) -> np.ndarray:
    """The outlines of things, without their textures."""
    canvas = _canvas()
    width = round(_EDGE * SUPERSAMPLING) * 2 + 1
    for thing, (x, y) in zip(scene.things, scene.centres, strict=True):
        mask, _ = stencil(thing.shape, thing.size, "plain")
        edge = ImageChops.subtract(mask, mask.filter(ImageFilter.MinFilter(width)))
        left, top = (round(place * SUPERSAMPLING - mask.width / 2) for place in (x, y))
        canvas.paste(edge, (left, top), mask)
    return _finished(canvas)


CONTROL_IMAGES: Mapping[str, ControlImage] = {"layout": layout, "edges": edges}


def placed_freely(rng: random.Random, scene: Scene) -> Scene:
    """The same scene, each thing moved along the axis on which its caption leaves it free."""
    pairs = zip(scene.things, scene.centres, strict=True)
    centres = tuple(_moved(rng, scene.relation, thing, centre) for thing, centre in pairs)
    return dataclasses.replace(scene, centres=centres)


def _moved(rng: random.Random, relation: str, thing: Thing, centre: tuple[float, float]) -> tuple[float, float]:
    margin = SIZES[thing.size] / 2 + _FRAME
    x, y = centre
    if relation == "in the centre":
        x, y = (SIDE / 2 + rng.uniform(-1, 1) * _AROUND_THE_MIDDLE for _ in range(2))
        return x, y
    anywhere = rng.uniform(margin, SIDE - margin)
    upright = relation in ("above", "below", "at the top", "at the bottom")
    return (anywhere, y) if upright else (x, anywhere)


def _canvas() -> Image.Image:
    return Image.new("L", (SIDE * SUPERSAMPLING,) * 2, 0)


def _finished(canvas: Image.Image) -> np.ndarray:
    return np.repeat(np.asarray(canvas.reduce(SUPERSAMPLING))[..., None], 3, axis=2)
