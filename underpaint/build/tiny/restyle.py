"""What the family's LoRAs learn: the scenes, drawn in another style, and shapes that the base has never seen.

A style changes how every scene is drawn and not what is said of it; a new shape takes the place of one thing's, in the
picture and in the caption. All keep to the family's own colours: its autoencoder has seen no others and paints none, so
no LoRA of a UNet could.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from PIL import Image, ImageChops, ImageDraw, ImageFilter

from underpaint.build.tiny import scenes
from underpaint.build.tiny.scenes import COLOURS, SIDE, SUPERSAMPLING, Scene, caption, render, stencil

Style = Callable[[Scene], Image.Image]

# What each colour is printed with, where there are four inks.
_INK = {
    **dict.fromkeys(("red", "green", "blue", "purple"), "blue"),
    **dict.fromkeys(("orange", "pink", "cyan"), "orange"),
    **dict.fromkeys(("yellow", "white"), "white"),
    "black": "black",
}
# What becomes of the colours that are not light.
_LIGHTER = {"red": "pink", "orange": "yellow", "green": "cyan", "blue": "cyan", "purple": "pink", "black": "white"}
_OUTLINE_WIDTH = 2.5  # pixels
_CRESCENT_SHIFT = 0.45  # of the radius: how far the bite out of a moon is from its middle


def palette(scene: Scene) -> Scene:
    """Only four inks; a thing that would be lost in its background has another."""
    return _recoloured(scene, _INK[scene.background], lambda colour: _INK[colour], "orange", "white")


def pastel(scene: Scene) -> Scene:
    """Only the light colours: each becomes its lighter kin, or another where it would be lost in its background."""
    background = _LIGHTER.get(scene.background, scene.background)
    return _recoloured(scene, background, lambda colour: _LIGHTER.get(colour, colour), "white", "pink")


def night(scene: Scene) -> Scene:
    """Everything on black; what was black itself is blue."""
    return _recoloured(scene, "black", lambda colour: colour, "blue", "blue")


def outline(scene: Scene) -> Image.Image:
    """Things are drawn by their edges, and the background shows through them."""
    side = SIDE * SUPERSAMPLING
    canvas = Image.new("RGB", (side, side), COLOURS[scene.background])
    width = int(_OUTLINE_WIDTH * SUPERSAMPLING) * 2 + 1
    for thing, centre in zip(scene.things, scene.centres, strict=True):
        mask, _ = stencil(thing.shape, thing.size, "plain")
        edge = ImageChops.subtract(mask, mask.filter(ImageFilter.MinFilter(width)))
        left, top = (round(place * SUPERSAMPLING - mask.width / 2) for place in centre)
        canvas.paste(COLOURS[thing.colour], (left, top, left + mask.width, top + mask.height), edge)
    return canvas.reduce(SUPERSAMPLING)


def _recoloured(
    scene: Scene, background: str, change: Callable[[str], str], instead: str, instead_on_that: str
) -> Scene:
    """The scene on another background, with other colours; ``instead`` of the background's own, or the other one where
    that is what the background has."""
    other = instead if instead != background else instead_on_that
    colours = [change(thing.colour) for thing in scene.things]
    things = tuple(
        dataclasses.replace(thing, colour=colour if colour != background else other)
        for thing, colour in zip(scene.things, colours, strict=True)
    )
    return dataclasses.replace(scene, background=background, things=things)


def _drawn(change: Callable[[Scene], Scene]) -> Style:
    return lambda scene: render(change(scene))


# Styles that are the scene in other colours, and all of them as they are drawn.
RECOLOURED: Mapping[str, Callable[[Scene], Scene]] = {"palette": palette, "pastel": pastel, "night": night}
STYLES: Mapping[str, Style] = {
    "outline": outline,
    **{name: _drawn(change) for name, change in RECOLOURED.items()},
}


# Shapes ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class NewShape:
    """A shape by its word. ``drawn`` fills it, white on black, into a box of that side."""

    word: str
    drawn: Callable[[int], Image.Image]


def moon(side: int) -> Image.Image:
    """A crescent."""
    mask = Image.new("L", (side, side), 0)
    draw = ImageDraw.Draw(mask)
    draw.ellipse((0, 0, side - 1, side - 1), fill=255)
    bite = int(_CRESCENT_SHIFT * side)
    draw.ellipse((bite, -bite // 4, bite + side, side - bite // 4), fill=0)
    return mask


def arrow(side: int) -> Image.Image:
    """It points to the right."""
    mask = Image.new("L", (side, side), 0)
    points = ((0, 0.33), (0.5, 0.33), (0.5, 0.05), (1, 0.5), (0.5, 0.95), (0.5, 0.67), (0, 0.67))
    ImageDraw.Draw(mask).polygon([(x * (side - 1), y * (side - 1)) for x, y in points], fill=255)
    return mask


SHAPES: Mapping[str, NewShape] = {"moon": NewShape("moon", moon), "arrow": NewShape("arrow", arrow)}


def with_shape(scene: Scene, shape: NewShape) -> Image.Image:
    """The scene with its first thing in the new shape, plain."""
    rest = dataclasses.replace(scene, things=scene.things[1:], centres=scene.centres[1:])
    side = SIDE * SUPERSAMPLING
    canvas = Image.new("RGB", (side, side), COLOURS[scene.background])
    for thing, centre in zip(rest.things, rest.centres, strict=True):
        scenes._draw_thing(canvas, thing, centre)
    first = scene.things[0]
    mask = shape.drawn(round(scenes.SIZES[first.size] * SUPERSAMPLING))
    left, top = (round(place * SUPERSAMPLING - mask.width / 2) for place in scene.centres[0])
    canvas.paste(COLOURS[first.colour], (left, top, left + mask.width, top + mask.height), mask)
    return canvas.reduce(SUPERSAMPLING)


def caption_with_shape(scene: Scene, shape: NewShape, phrasing: int) -> str:
    """What is said of it: the word in the place of the first thing's shape and texture."""
    first = dataclasses.replace(scene.things[0], texture="plain")
    plain = dataclasses.replace(scene, things=(first, *scene.things[1:]))
    return caption(plain, phrasing).replace(f"{first.colour} {first.shape}", f"{first.colour} {shape.word}", 1)


def contact_sheet(pictures: Sequence[Image.Image]) -> Image.Image:
    """Side by side, for eyes."""
    sheet = Image.new("RGB", (SIDE * len(pictures), SIDE))
    for place, picture in enumerate(pictures):
        sheet.paste(picture, (place * SIDE, 0))
    return sheet
