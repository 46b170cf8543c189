"""A scene as a row of class numbers: what stands in each of five places, and on which background.

Captions that mean the same have the same facts, whichever thing they tell first.
"""

from __future__ import annotations

from underpaint.build.tiny.scenes import COLOURS, POSITIONS, SHAPES, SIZES, TEXTURES, Scene

PLACES = tuple(POSITIONS)
# For each place colour, shape, size and texture, each with a last class for "nothing here".
_KINDS = (tuple(COLOURS), SHAPES, tuple(SIZES), TEXTURES)
CLASSES: list[int] = [len(COLOURS)] + [len(kind) + 1 for _ in PLACES for kind in _KINDS]

_PAIRS = {
    "above": ("at the top", "at the bottom"),
    "below": ("at the bottom", "at the top"),
    "left of": ("on the left", "on the right"),
    "right of": ("on the right", "on the left"),
}


def places(scene: Scene) -> tuple[str, ...]:
    """Where each thing stands, one of `POSITIONS` for each, first thing first."""
    return _PAIRS.get(scene.relation) or (scene.relation,)


def facts(scene: Scene) -> list[int]:
    """One class number for each of `CLASSES`."""
    standing = dict(zip(places(scene), scene.things, strict=True))
    row = [list(COLOURS).index(scene.background)]
    for place in PLACES:
        thing = standing.get(place)
        told = (thing.colour, thing.shape, thing.size, thing.texture) if thing else (None,) * 4
        row += [kind.index(name) if name else len(kind) for kind, name in zip(_KINDS, told, strict=True)]
    return row
