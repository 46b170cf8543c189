"""The judge: reads a picture and says what of a scene it shows. No weights, and nothing of the generator's.

It knows the palette and the sizes, not how shapes are drawn: it has outlines of its own. It looks for each
thing in the half of the picture where the scene has it.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from underpaint.build.tiny.scenes import COLOURS, POSITIONS, SHAPES, SIDE, SIZES, Scene, Thing, shade

Pixels = NDArray[np.uint8]  # [64, 64, 3], RGB
Mask = NDArray[np.float64]  # soft, from 0 to 1

GRID = 32  # side on which outlines are compared
FRAME = 2  # pixels at the border that are always background
SIZE_THRESHOLD = sum(SIZES.values()) / 2 - 1.0  # pixels
PLACE_TOLERANCE = 7.0  # pixels between centres
PLAIN_BELOW = 0.10  # share of the second colour
STRIPED_ABOVE = 0.45  # share of variance that lies between rows
MIDDLE = SIDE // 2


@dataclass(frozen=True)
class ThingVerdict:
    """Which attributes of one thing are as told."""

    colour: bool
    shape: bool
    size: bool
    texture: bool
    place: bool


@dataclass(frozen=True)
class Verdict:
    background: bool
    things: tuple[ThingVerdict, ...]

    @property
    def all_right(self) -> bool:
        """Background, and every thing's colour, shape and size. Texture and place are reported apart."""
        return self.background and all(thing.colour and thing.shape and thing.size for thing in self.things)


def judge(picture: Pixels, scene: Scene) -> Verdict:
    """Compare a picture, uint8 [64, 64, 3], with the scene that it should show."""
    background = _background(picture)
    figure = np.clip((_distance(picture, background) - 25) / 50, 0, 1)
    regions = _regions(scene)
    return Verdict(
        background=nearest_colour(background) == scene.background,
        things=tuple(
            _judge_thing(picture, figure * region, thing, centre)
            for thing, region, centre in zip(scene.things, regions, _places(scene), strict=True)
        ),
    )


def score(verdicts: Sequence[Verdict]) -> dict[str, float]:
    """Shares that are right: `background` and `all` by picture, the rest by thing."""
    things = [thing for verdict in verdicts for thing in verdict.things]
    by_thing = {
        name: float(np.mean([getattr(thing, name) for thing in things]))
        for name in ("colour", "shape", "size", "texture", "place")
    }
    return {
        "background": float(np.mean([verdict.background for verdict in verdicts])),
        **by_thing,
        "all": float(np.mean([verdict.all_right for verdict in verdicts])),
    }


def nearest_colour(rgb: NDArray[np.float64]) -> str:
    """The palette's colour nearest to an RGB triple."""
    names = list(COLOURS)
    return names[int(np.argmin(_distance(np.array([COLOURS[name] for name in names]), rgb)))]


def _background(picture: Pixels) -> NDArray[np.float64]:
    """The median colour of the frame."""
    frame = np.ones((SIDE, SIDE), dtype=bool)
    frame[FRAME:-FRAME, FRAME:-FRAME] = False
    return np.median(picture[frame], axis=0)


def _distance(pixels: NDArray, rgb: NDArray | Sequence[int]) -> NDArray[np.float64]:
    distance: NDArray[np.float64] = np.linalg.norm(pixels.astype(float) - np.asarray(rgb, float), axis=-1)
    return distance


def _regions(scene: Scene) -> tuple[Mask, ...]:
    """Where to look for each thing: everywhere for one, the told half for two."""
    if len(scene.things) == 1:
        return (np.ones((SIDE, SIDE)),)
    near, far = np.zeros((SIDE, SIDE)), np.zeros((SIDE, SIDE))
    if scene.relation in ("above", "below"):
        near[:MIDDLE], far[MIDDLE:] = 1, 1
    else:
        near[:, :MIDDLE], far[:, MIDDLE:] = 1, 1
    return (near, far) if scene.relation in ("above", "left of") else (far, near)


def _places(scene: Scene) -> tuple[tuple[float, float], ...]:
    """The told centre of each thing, (x, y), without jitter: a caption does not tell it."""
    first = {"above": "at the top", "below": "at the bottom", "left of": "on the left"}
    second = {"above": "at the bottom", "below": "at the top", "left of": "on the right"}
    if len(scene.things) == 1:
        return (POSITIONS[scene.relation],)
    return (
        POSITIONS[first.get(scene.relation, "on the right")],
        POSITIONS[second.get(scene.relation, "on the left")],
    )


def _judge_thing(picture: Pixels, figure: Mask, thing: Thing, place: tuple[float, float]) -> ThingVerdict:
    rows, columns = np.nonzero(figure > 0.5)
    if len(rows) < 12:  # nothing there
        return ThingVerdict(False, False, False, False, False)
    top, bottom, left, right = rows.min(), rows.max() + 1, columns.min(), columns.max() + 1
    inside = _interior(figure)
    centre = ((left + right) / 2, (top + bottom) / 2)
    return ThingVerdict(
        colour=_colour(picture[inside]) == thing.colour,
        shape=_shape(figure[top:bottom, left:right]) == thing.shape,
        size=(max(bottom - top, right - left) > SIZE_THRESHOLD) == (thing.size == "large"),
        texture=_texture(picture, inside, thing.colour) == thing.texture,
        place=math.dist(centre, place) <= PLACE_TOLERANCE,
    )


def _interior(figure: Mask) -> NDArray[np.bool_]:
    """Pixels whose four neighbours belong to the figure too; all of it where that leaves too little."""
    full = np.pad(figure > 0.9, 1)
    inner = full[1:-1, 1:-1] & full[:-2, 1:-1] & full[2:, 1:-1] & full[1:-1, :-2] & full[1:-1, 2:]
    return inner if inner.sum() >= 12 else figure > 0.5


def _colour(pixels: NDArray[np.uint8]) -> str:
    """The commonest palette colour among the figure's pixels, [N, 3]."""
    distances = np.stack([_distance(pixels, rgb) for rgb in COLOURS.values()])
    votes = np.bincount(distances.argmin(axis=0), minlength=len(COLOURS))
    return list(COLOURS)[int(votes.argmax())]


def _shape(figure: Mask) -> str:
    """The outline that overlaps best, once the figure's bounding box is stretched to a square."""
    image = Image.fromarray((255 * figure).astype(np.uint8))
    stretched = np.asarray(image.resize((GRID, GRID), Image.Resampling.BILINEAR)) / 255
    overlaps = {
        shape: np.minimum(stretched, outline).sum() / np.maximum(stretched, outline).sum()
        for shape, outline in _outlines().items()
    }
    return max(overlaps, key=lambda shape: overlaps[shape])


def _texture(picture: Pixels, inside: NDArray[np.bool_], colour: str) -> str:
    """How much of the second colour there is, and whether it varies by row (stripes) or not (dots)."""
    base, second = np.array(COLOURS[colour], float), np.array(shade(colour), float)
    axis = (second - base) / np.square(second - base).sum()
    amount = np.clip((picture - base) @ axis, 0, 1)
    values = amount[inside]
    if values.mean() < PLAIN_BELOW:
        return "plain"
    rows = np.nonzero(inside)[0]
    means = np.bincount(rows, values, SIDE) / np.maximum(np.bincount(rows, minlength=SIDE), 1)
    return "striped" if np.var(means[rows]) > STRIPED_ABOVE * np.var(values) else "dotted"


@functools.cache
def _outlines() -> dict[str, Mask]:
    """Each shape filled on a grid over its own bounding box."""
    steps = (np.arange(4 * GRID) + 0.5) / (4 * GRID) * 2 - 1
    x, y = np.meshgrid(steps, steps)
    filled = {
        "circle": x**2 + y**2 <= 1,
        "ring": (x**2 + y**2 <= 1) & (x**2 + y**2 >= 0.27),
        "square": np.ones_like(x, dtype=bool),
        "triangle": np.abs(x) <= (y + 1) / 2,
        "diamond": np.abs(x) + np.abs(y) <= 1,
        "cross": (np.abs(x) <= 0.36) | (np.abs(y) <= 0.36),
        "heart": _heart(1.14 * x, 0.12 - 1.12 * y),
        "star": _star(0.951 * x, 0.904 * y - 0.096),
    }
    return {shape: _shrink(filled[shape]) for shape in SHAPES}


def _heart(x: Mask, y: Mask) -> NDArray[np.bool_]:
    """The sextic heart, y upwards."""
    return (x**2 + y**2 - 1) ** 3 <= x**2 * y**3


def _star(x: Mask, y: Mask, inner: float = 0.47) -> NDArray[np.bool_]:
    """Five points of radius 1, one upwards; by symmetry only the edge from a point to a notch is tested."""
    radius, angle = np.hypot(x, y), np.arctan2(x, -y)
    folded = np.abs((angle + math.pi / 5) % (2 * math.pi / 5) - math.pi / 5)
    notch_x, notch_y = inner * math.cos(math.pi / 5), inner * math.sin(math.pi / 5)
    along, across = radius * np.cos(folded), radius * np.sin(folded)
    return along <= 1 - across * (1 - notch_x) / notch_y


def _shrink(filled: NDArray[np.bool_]) -> Mask:
    shrunk: Mask = filled.reshape(GRID, 4, GRID, 4).mean(axis=(1, 3))
    return shrunk
