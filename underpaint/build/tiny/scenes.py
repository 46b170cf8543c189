"""Scenes: what the tiny family paints, how a scene is drawn, and how it is told in words.

A scene is one or two things on a plain background, 64 by 64 pixels. Everything is a function of a seed
and an index, so any scene of any stream can be made again on its own.
"""

from __future__ import annotations

import functools
import hashlib
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from PIL import Image, ImageDraw

SIDE = 64  # pixels
SUPERSAMPLING = 4

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (214, 38, 38),
    "orange": (245, 140, 26),
    "yellow": (247, 224, 52),
    "green": (42, 150, 64),
    "cyan": (64, 206, 220),
    "blue": (40, 76, 206),
    "purple": (128, 48, 172),
    "pink": (246, 150, 200),
    "white": (246, 246, 246),
    "black": (26, 26, 26),
}
SHAPES = ("circle", "square", "triangle", "star", "heart", "diamond", "cross", "ring")
SIZES = {"small": 17.0, "large": 27.0}  # extent in pixels
TEXTURES = ("plain", "striped", "dotted")
RELATIONS = ("above", "below", "left of", "right of")
POSITIONS = {
    "in the centre": (32.0, 32.0),
    "at the top": (32.0, 17.0),
    "at the bottom": (32.0, 47.0),
    "on the left": (17.0, 32.0),
    "on the right": (47.0, 32.0),
}
PHRASINGS = 4
PAIR_SHARE = 0.6  # share of scenes with two things


class Split(Enum):
    """Which scenes a stream may hold: see `is_held_out`."""

    TRAINING = "training"
    HELD_OUT = "held out"


@dataclass(frozen=True)
class Thing:
    colour: str
    shape: str
    size: str
    texture: str


@dataclass(frozen=True)
class Scene:
    """One or two things; `relation` is of the first to the second, or the position of the only one.

    `centres` are (x, y) in pixels, one for each thing.
    """

    background: str
    things: tuple[Thing, ...]
    relation: str
    centres: tuple[tuple[float, float], ...]


@functools.cache
def is_held_out(thing: Thing) -> bool:
    """Whether training never shows this combination: some colour-shape pairs, and some with a texture."""
    pair = f"{thing.colour} {thing.shape}"
    return _is_sixteenth(pair) or _is_sixteenth(f"{thing.texture} {pair}")


def _is_sixteenth(name: str) -> bool:
    return hashlib.sha256(name.encode()).digest()[0] < 16


def scene_at(seed: int, index: int, split: Split = Split.TRAINING) -> Scene:
    """The scene of a stream at an index. In a held-out stream at least one thing is held out."""
    rng = random.Random(f"{seed}/{index}")
    while True:
        scene = _sample(rng)
        if any(map(is_held_out, scene.things)) == (split is Split.HELD_OUT):
            return scene


def stream(seed: int, count: int, split: Split = Split.TRAINING, first: int = 0) -> Iterator[Scene]:
    """The scenes `first` to `first + count - 1` of a stream."""
    return (scene_at(seed, index, split) for index in range(first, first + count))


def _sample(rng: random.Random) -> Scene:
    background = rng.choice(list(COLOURS))
    count = 2 if rng.random() < PAIR_SHARE else 1
    things = tuple(_sample_thing(rng, background) for _ in range(count))
    relation = rng.choice(RELATIONS if count == 2 else list(POSITIONS))
    middles = _middles(relation)
    centres = tuple(_jitter(rng, middle, thing) for middle, thing in zip(middles, things, strict=True))
    return Scene(background, things, relation, centres)


def _sample_thing(rng: random.Random, background: str) -> Thing:
    return Thing(
        colour=rng.choice([name for name in COLOURS if name != background]),
        shape=rng.choice(SHAPES),
        size=rng.choice(list(SIZES)),
        texture=rng.choices(TEXTURES, weights=(2, 1, 1))[0],
    )


def _middles(relation: str) -> tuple[tuple[float, float], ...]:
    """Where the things stand before jitter, first thing first."""
    near, far = 17.0, 47.0
    return {
        "above": ((32.0, near), (32.0, far)),
        "below": ((32.0, far), (32.0, near)),
        "left of": ((near, 32.0), (far, 32.0)),
        "right of": ((far, 32.0), (near, 32.0)),
    }.get(relation) or (POSITIONS[relation],)


def _jitter(rng: random.Random, middle: tuple[float, float], thing: Thing) -> tuple[float, float]:
    """Move by a few pixels: freely on the axis where there is room, little towards an edge or neighbour."""
    tight = 1.0 if thing.size == "large" else 3.0
    x, y = (place + rng.uniform(-1, 1) * (3.0 if place == SIDE / 2 else tight) for place in middle)
    return x, y


def shade(colour: str) -> tuple[int, int, int]:
    """The colour of a thing's stripes and dots: light on dark colours, dark on light ones."""
    rgb = COLOURS[colour]
    luma = 0.299 * rgb[0] + 0.587 * rgb[1] + 0.114 * rgb[2]
    towards = 255 if luma < 128 else 0
    red, green, blue = (round(0.5 * channel + 0.5 * towards) for channel in rgb)
    return red, green, blue


def render(scene: Scene) -> Image.Image:
    """Draw a scene: RGB, 64 by 64."""
    side = SIDE * SUPERSAMPLING
    canvas = Image.new("RGB", (side, side), COLOURS[scene.background])
    for thing, centre in zip(scene.things, scene.centres, strict=True):
        _draw_thing(canvas, thing, centre)
    return canvas.reduce(SUPERSAMPLING)


def _draw_thing(canvas: Image.Image, thing: Thing, centre: tuple[float, float]) -> None:
    outline, texture = stencil(thing.shape, thing.size, thing.texture)
    paint = Image.new("RGB", outline.size, COLOURS[thing.colour])
    paint.paste(shade(thing.colour), (0, 0), texture)
    left, top = (round(place * SUPERSAMPLING - outline.width / 2) for place in centre)
    canvas.paste(paint, (left, top), outline)


@functools.cache
def stencil(shape: str, size: str, texture: str) -> tuple[Image.Image, Image.Image]:
    """Two masks "L" at `SUPERSAMPLING`, centred: the thing's outline, and where its second colour goes."""
    radius = SIZES[size] / 2 * SUPERSAMPLING
    outline, pattern = (Image.new("L", (round(2 * radius) + 2,) * 2, 0) for _ in range(2))
    middle = outline.width / 2
    _draw_shape(ImageDraw.Draw(outline), shape, middle, radius)
    _draw_texture(ImageDraw.Draw(pattern), texture, middle)
    return outline, pattern


def _draw_shape(draw: ImageDraw.ImageDraw, shape: str, middle: float, radius: float) -> None:
    """Fill the shape in white, in a box centred at (middle, middle)."""
    if shape in ("circle", "ring"):
        draw.ellipse(_square(middle, radius), fill=255)
        if shape == "ring":
            draw.ellipse(_square(middle, 0.52 * radius), fill=0)
        return
    draw.polygon([(middle + radius * x, middle + radius * y) for x, y in _OUTLINES[shape]], fill=255)


def _draw_texture(draw: ImageDraw.ImageDraw, texture: str, middle: float) -> None:
    """Stripes or dots, in phase with the thing's centre. Coarse, to survive an 8-fold autoencoder."""
    if texture == "striped":
        for offset in (-13.0, -6.5, 0.0, 6.5, 13.0):
            top = middle + (offset - 1.25) * SUPERSAMPLING
            draw.rectangle((0, top, 2 * middle, top + 2.5 * SUPERSAMPLING - 1), fill=255)
    if texture == "dotted":
        grid = [middle + offset * SUPERSAMPLING for offset in (-10.5, -3.5, 3.5, 10.5)]
        reach = 1.9 * SUPERSAMPLING
        for x in grid:
            for y in grid:
                draw.ellipse((x - reach, y - reach, x + reach, y + reach), fill=255)


def _square(middle: float, radius: float) -> tuple[float, float, float, float]:
    return middle - radius, middle - radius, middle + radius, middle + radius


def _star() -> list[tuple[float, float]]:
    """Five points; the inner radius is wider than a true pentagram's, to be legible when small."""
    radii = [1.06 if corner % 2 == 0 else 0.5 for corner in range(10)]
    angles = [math.pi * (corner / 5 - 0.5) for corner in range(10)]
    return [(r * math.cos(a), r * math.sin(a) + 0.07) for r, a in zip(radii, angles, strict=True)]


def _heart() -> list[tuple[float, float]]:
    angles = [2 * math.pi * step / 60 for step in range(60)]
    return [
        (
            math.sin(a) ** 3,
            -(13 * math.cos(a) - 5 * math.cos(2 * a) - 2 * math.cos(3 * a) - math.cos(4 * a)) / 15.5 - 0.12,
        )
        for a in angles
    ]


def _cross(arm: float = 0.36) -> list[tuple[float, float]]:
    a = arm
    return [
        (-a, -1), (a, -1), (a, -a), (1, -a), (1, a), (a, a),
        (a, 1), (-a, 1), (-a, a), (-1, a), (-1, -a), (-a, -a),
    ]  # fmt: skip


_OUTLINES: dict[str, list[tuple[float, float]]] = {
    "square": [(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)],
    "triangle": [(0, -0.95), (1, 0.85), (-1, 0.85)],
    "diamond": [(0, -1), (0.78, 0), (0, 1), (-0.78, 0)],
    "star": _star(),
    "heart": _heart(),
    "cross": _cross(),
}


def caption(scene: Scene, phrasing: int = 0) -> str:
    """Tell a scene in words; `phrasing` chooses one of `PHRASINGS` ways (any integer will do)."""
    names = [describe(thing) for thing in scene.things]
    what = f"{names[0]} {scene.relation}" + (f" {names[1]}" if len(names) == 2 else "")
    background = scene.background
    return (
        f"{what}, on a {background} background",
        f"{what} on a {background} background",
        f"on a {background} background, {what}",
        f"{what}, {background} background",
    )[phrasing % PHRASINGS]


def describe(thing: Thing) -> str:
    """For example "a large striped blue square"; plainness goes without saying."""
    texture = "" if thing.texture == "plain" else f"{thing.texture} "
    return f"a {thing.size} {texture}{thing.colour} {thing.shape}"
