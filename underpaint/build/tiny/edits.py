"""What can be changed about a scene, and how far two scenes are apart: in attributes that a caption tells."""

from __future__ import annotations

import functools
import random
from collections.abc import Sequence
from dataclasses import replace

from underpaint.build.tiny.scenes import (
    COLOURS,
    POSITIONS,
    RELATIONS,
    SHAPES,
    SIZES,
    TEXTURES,
    Scene,
    Thing,
    scene_at,
)

_PLACES_STREAM = 39_999  # scenes whose only use is where their things are
_INVERSE = {"above": "below", "below": "above", "left of": "right of", "right of": "left of"}
_KINDS: dict[str, tuple[str, ...]] = {
    "colour": tuple(COLOURS),
    "shape": SHAPES,
    "size": tuple(SIZES),
    "texture": TEXTURES,
}

Place = tuple[int | None, str]  # an attribute: of which thing, or of the whole scene (None)


def attributes(scene: Scene) -> dict[Place, str]:
    """Everything that a caption says of a scene."""
    told: dict[Place, str] = {(None, "background"): scene.background, (None, "relation"): scene.relation}
    for number, thing in enumerate(scene.things):
        told |= {(number, kind): getattr(thing, kind) for kind in _KINDS}
    return told


def told_the_other_way(scene: Scene) -> Scene:
    """The same picture, told from its other thing: "A above B" is "B below A". One thing has no other way."""
    if len(scene.things) == 1:
        return scene
    return Scene(scene.background, scene.things[::-1], _INVERSE[scene.relation], scene.centres[::-1])


def edits_between(one: Scene, other: Scene) -> int | None:
    """By how many attributes two scenes differ, told so that they differ least; None if by a whole thing."""
    if len(one.things) != len(other.things):
        return None
    told = attributes(one)
    return min(
        sum(told[place] != value for place, value in attributes(way).items())
        for way in (other, told_the_other_way(other))
    )


def edit(rng: random.Random, scene: Scene, count: int) -> Scene | None:
    """The scene with ``count`` attributes changed, or None where this attempt made something that cannot be told."""
    changed = attributes(scene)
    for place in rng.sample(sorted(changed, key=str), count):
        changed[place] = rng.choice([value for value in _choices(scene, place) if value != changed[place]])
    things = tuple(Thing(**{kind: changed[number, kind] for kind in _KINDS}) for number in range(len(scene.things)))
    background, relation = changed[None, "background"], changed[None, "relation"]
    if any(thing.colour == background for thing in things):
        return None
    edited = Scene(background, things, relation, scene.centres)
    return edited if edits_between(scene, edited) == count else None


def _choices(scene: Scene, place: Place) -> Sequence[str]:
    number, kind = place
    if number is not None:
        return _KINDS[kind]
    if kind == "background":
        return list(COLOURS)
    return RELATIONS if len(scene.things) == 2 else list(POSITIONS)


def placed_anew(rng: random.Random, scene: Scene) -> Scene:
    """The same scene with its things a few pixels elsewhere, as scenes of the family's streams have them."""
    places = _places_drawn()[scene.relation, tuple(thing.size for thing in scene.things)]
    return replace(scene, centres=rng.choice(places))


@functools.cache
def _places_drawn() -> dict[tuple[str, tuple[str, ...]], list[tuple[tuple[float, float], ...]]]:
    """Centres of many scenes, by what they depend on: the relation, and the size of each thing."""
    drawn: dict[tuple[str, tuple[str, ...]], list[tuple[tuple[float, float], ...]]] = {}
    for index in range(4000):
        scene = scene_at(_PLACES_STREAM, index)
        drawn.setdefault((scene.relation, tuple(thing.size for thing in scene.things)), []).append(scene.centres)
    return drawn
