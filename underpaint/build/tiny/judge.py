"""The judge: reads a picture and says what it shows. No weights, and nothing of any network's.

It reads by synthesis. Every shape, size, texture and colour is laid over the picture at every place where a
thing could stand, and the scene that leaves the least unexplained is what the picture shows (least squares).
A picture that no scene explains is unreadable, however close its nearest scene: a blob between a star and a
heart is neither.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from underpaint.build.tiny.facts import places
from underpaint.build.tiny.scenes import (
    COLOURS,
    POSITIONS,
    SHAPES,
    SIDE,
    SIZES,
    SUPERSAMPLING,
    TEXTURES,
    Scene,
    Thing,
    shade,
    stencil,
)

Pictures = NDArray[np.uint8]  # [N, 64, 64, 3], RGB
Floats = NDArray[np.float32]

FRAME = 2  # pixels at the border that are always background
WINDOW = 32  # side of the square in which a thing is looked for, pixels
REACH = 3  # how far off a thing's estimated centre it is tried, half pixels
PLACE_TOLERANCE = 7.0  # pixels between where a thing stands and where it was told to
CLARITY = 0.6  # least share of a thing's energy that its reading must explain
MIDDLE = SIDE // 2
BATCH = 32


@dataclass(frozen=True)
class Seen:
    """One thing that was read off a picture. `place` is one of `POSITIONS`, or None for elsewhere."""

    thing: Thing
    place: str | None
    clarity: float  # share of the energy there that the reading explains, at most 1


@dataclass(frozen=True)
class Reading:
    """What a picture shows; `things` is empty for a picture that shows nothing readable."""

    background: str
    things: tuple[Seen, ...]

    @property
    def readable(self) -> bool:
        return bool(self.things)


@dataclass(frozen=True)
class ThingVerdict:
    """Which attributes of one thing are as told. All false for a thing that is not where it should be."""

    colour: bool
    shape: bool
    size: bool
    texture: bool
    place: bool


NOT_THERE = ThingVerdict(False, False, False, False, False)


@dataclass(frozen=True)
class Verdict:
    background: bool
    relation: bool  # as many things as told, each in its place
    things: tuple[ThingVerdict, ...]

    @property
    def all_right(self) -> bool:
        """Background, relation, and every thing's colour, shape, size, texture and place."""
        return self.background and self.relation and all(all(vars(thing).values()) for thing in self.things)


def judge(pictures: Pictures, scenes: Sequence[Scene]) -> list[Verdict]:
    """Compare pictures, uint8 [N, 64, 64, 3], with the scenes that they should show."""
    return [compare(reading, scene) for reading, scene in zip(read(pictures), scenes, strict=True)]


def compare(reading: Reading, scene: Scene) -> Verdict:
    told = dict(zip(places(scene), scene.things, strict=True))
    seen = {one.place: one.thing for one in reading.things}
    return Verdict(
        background=reading.background == scene.background,
        relation=seen.keys() == told.keys(),
        things=tuple(_compare_thing(seen.get(place), thing) for place, thing in told.items()),
    )


def _compare_thing(seen: Thing | None, told: Thing) -> ThingVerdict:
    if seen is None:
        return NOT_THERE
    return ThingVerdict(
        seen.colour == told.colour, seen.shape == told.shape, seen.size == told.size, seen.texture == told.texture, True
    )


def score(verdicts: Sequence[Verdict]) -> dict[str, float]:
    """Shares that are right: `background`, `relation` and `all` by picture, the rest by thing."""
    things = [thing for verdict in verdicts for thing in verdict.things]
    by_thing = {
        name: float(np.mean([getattr(thing, name) for thing in things]))
        for name in ("colour", "shape", "size", "texture", "place")
    }
    return {
        "background": float(np.mean([verdict.background for verdict in verdicts])),
        "relation": float(np.mean([verdict.relation for verdict in verdicts])),
        **by_thing,
        "all": float(np.mean([verdict.all_right for verdict in verdicts])),
    }


def read(pictures: Pictures) -> list[Reading]:
    """What each picture shows: uint8 [N, 64, 64, 3]. About 60 pictures a second on one core."""
    starts = range(0, len(pictures), BATCH)
    return [reading for start in starts for reading in _read_batch(pictures[start : start + BATCH])]


def _read_batch(pictures: Pictures) -> list[Reading]:
    backgrounds = _backgrounds(pictures)
    figures = pictures.astype(np.float32) - backgrounds[:, None, None]
    fits = {name: _fit(figures * region[..., None], backgrounds) for name, region in _REGIONS.items()}
    return [
        Reading(nearest_colour(background), _seen({name: fit[row] for name, fit in fits.items()}))
        for row, background in enumerate(backgrounds)
    ]


def nearest_colour(rgb: Floats) -> str:
    """The palette's colour nearest to an RGB triple."""
    distances = {name: math.dist(rgb, colour) for name, colour in COLOURS.items()}
    return min(distances, key=lambda name: distances[name])


def _backgrounds(pictures: Pictures) -> Floats:
    """The median colour of each picture's frame: [N, 3]."""
    frame = np.ones((SIDE, SIDE), dtype=bool)
    frame[FRAME:-FRAME, FRAME:-FRAME] = False
    return np.median(pictures[:, frame], axis=1).astype(np.float32)


@dataclass(frozen=True)
class Fit:
    """The thing that best explains one region: its centre (x, y) in pixels, and how much it explains."""

    thing: Thing
    centre: tuple[float, float]
    explained: float  # energy: squared levels, summed over pixels and channels
    energy: float  # of the whole region

    @property
    def clarity(self) -> float:
        return self.explained / max(self.energy, 1.0)


def _seen(fits: dict[str, Fit]) -> tuple[Seen, ...]:
    """Of the layouts whose every thing is clear, the one that explains most of the picture; or nothing."""
    clear = [layout for layout in _LAYOUTS if all(fits[region].clarity >= CLARITY for region in layout)]
    best = max(clear, key=lambda layout: sum(fits[region].explained for region in layout), default=())
    return tuple(Seen(fit.thing, _place(fit.centre, region), fit.clarity) for region in best for fit in [fits[region]])


def _place(centre: tuple[float, float], region: str) -> str | None:
    """The nearest of the places that the region can hold, unless the thing is too far from it."""
    nearest = min(_PLACES[region], key=lambda place: math.dist(centre, POSITIONS[place]))
    return nearest if math.dist(centre, POSITIONS[nearest]) <= PLACE_TOLERANCE else None


def _fit(figures: Floats, backgrounds: Floats) -> list[Fit]:
    """Fit one thing to each of `figures`, float32 [N, 64, 64, 3], differences from `backgrounds`, [N, 3]."""
    corners = [_corner(figure) for figure in figures]
    margin = ((0, 0), (WINDOW, WINDOW), (WINDOW, WINDOW), (0, 0))
    padded = np.pad(figures, margin)
    windows = np.stack([
        padded[row, top + WINDOW : top + 2 * WINDOW, left + WINDOW : left + 2 * WINDOW]
        for row, (left, top) in enumerate(corners)
    ]).reshape(len(figures), WINDOW * WINDOW, 3)  # fmt: skip
    bank = _bank()
    # Colours [10, 2, 3] less each background: what a template of that colour adds to the picture.
    paints = _PAINTS[None] - backgrounds[:, None, None]
    along = np.einsum("npc,nksc->spnk", windows, paints, optimize=True)  # [2, pixels, N, colours]
    overlap = np.tensordot(bank.masks, along, axes=([1, 2], [0, 1]))  # [templates, N, colours]
    products = np.einsum("nksc,nktc->stnk", paints, paints)  # [2, 2, N, colours]
    explained = (2 * overlap - np.tensordot(bank.products, products, axes=2)).astype(np.float32)
    energies = np.square(figures).sum(axis=(1, 2, 3))
    return [_best_fit(explained[:, row], float(energy), corners[row]) for row, energy in enumerate(energies)]


def _best_fit(explained: Floats, energy: float, corner: tuple[int, int]) -> Fit:
    """The template and colour, of [templates, colours], that explain most."""
    template, colour = np.unravel_index(int(explained.argmax()), explained.shape)
    bank = _bank()
    shape, size, texture = bank.names[template]
    x, y = bank.centres[template]
    return Fit(
        thing=Thing(list(COLOURS)[colour], shape, size, texture),
        centre=(corner[0] + x, corner[1] + y),
        explained=float(explained[template, colour]),
        energy=energy,
    )


def _corner(figure: Floats) -> tuple[int, int]:
    """Left and top of the window that centres the figure's mass; of the middle, if there is no figure."""
    mass = np.clip((np.linalg.norm(figure, axis=-1) - 25) / 50, 0, 1)
    total = mass.sum()
    if total == 0:
        return MIDDLE - WINDOW // 2, MIDDLE - WINDOW // 2
    pixels = np.arange(SIDE) + 0.5
    x, y = (mass.sum(axis=0) @ pixels / total, mass.sum(axis=1) @ pixels / total)
    return round(x - WINDOW / 2), round(y - WINDOW / 2)


@dataclass(frozen=True)
class Bank:
    """Every shape, size and texture at every offset, without colour.

    `masks` float32 [templates, 2, pixels]: the share of each pixel in the thing's first and second colour;
    `products` float32 [templates, 2, 2]: their inner products; `centres`: (x, y) in the window, pixels.
    """

    names: list[tuple[str, str, str]]
    centres: list[tuple[float, float]]
    masks: Floats
    products: Floats


@functools.cache
def _bank() -> Bank:
    names, centres, masks = [], [], []
    offsets = [offset / 2 for offset in range(-REACH, REACH + 1)]
    for name in product(SHAPES, SIZES, TEXTURES):
        mass_x, mass_y = _centre_of_mass(stencil(*name)[0])
        for x, y in product(offsets, offsets):
            centre = (WINDOW / 2 + x - mass_x, WINDOW / 2 + y - mass_y)
            names.append(name)
            centres.append(centre)
            masks.append(_template(name, centre))
    stacked = np.stack(masks)
    return Bank(names, centres, stacked, np.einsum("tsp,tup->tsu", stacked, stacked))


def _template(name: tuple[str, str, str], centre: tuple[float, float]) -> Floats:
    """Masks of a thing at a centre in the window: [2, pixels]."""
    outline, pattern = stencil(*name)
    left, top = (round(place * SUPERSAMPLING - outline.width / 2) for place in centre)
    whole, second = (Image.new("L", (WINDOW * SUPERSAMPLING,) * 2) for _ in range(2))
    whole.paste(outline, (left, top))
    second.paste(pattern, (left, top), outline)
    shares = [np.asarray(mask.reduce(SUPERSAMPLING), np.float32).ravel() / 255 for mask in (whole, second)]
    return np.stack([shares[0] - shares[1], shares[1]])


def _centre_of_mass(outline: Image.Image) -> tuple[float, float]:
    """Of a mask, from its middle, in pixels of the picture."""
    mass = np.asarray(outline, float)
    places = (np.arange(outline.width) + 0.5 - outline.width / 2) / SUPERSAMPLING
    return mass.sum(axis=0) @ places / mass.sum(), mass.sum(axis=1) @ places / mass.sum()


def _half(rows: slice, columns: slice) -> Floats:
    mask = np.zeros((SIDE, SIDE), np.float32)
    mask[rows, columns] = 1
    return mask


_EVERY = slice(None)
_REGIONS = {
    "whole": _half(_EVERY, _EVERY),
    "top": _half(slice(MIDDLE), _EVERY),
    "bottom": _half(slice(MIDDLE, None), _EVERY),
    "left": _half(_EVERY, slice(MIDDLE)),
    "right": _half(_EVERY, slice(MIDDLE, None)),
}
_LAYOUTS = (("whole",), ("top", "bottom"), ("left", "right"))
_PLACES = {
    "whole": tuple(POSITIONS),
    "top": ("at the top",),
    "bottom": ("at the bottom",),
    "left": ("on the left",),
    "right": ("on the right",),
}
_PAINTS = np.array([(rgb, shade(name)) for name, rgb in COLOURS.items()], np.float32)  # [10, 2, 3]
