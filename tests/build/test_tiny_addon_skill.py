"""Whether LoRAs do what they are for: what is drawn in a style follows it, and what is drawn plainly does not."""

from __future__ import annotations

import numpy as np
import pytest

from underpaint.build.tiny import restyle
from underpaint.build.tiny.addon_skill import Skill, are_hollow, captions_for, nearest_shape, scenes_for, skill
from underpaint.build.tiny.scenes import render
from underpaint.build.tiny.train_addons import ADDONS, draw

COUNT = 12


@pytest.mark.parametrize("name", ADDONS)
def test_what_is_drawn_in_its_way_follows_and_what_is_drawn_plainly_does_not(name: str) -> None:
    scenes = scenes_for(name, COUNT)
    drawn = skill(name, np.stack([draw(ADDONS[name], scene, 0)[0] for scene in scenes]), scenes)
    plain = skill(name, np.stack([np.asarray(render(scene)) for scene in scenes]), scenes)
    assert drawn.follows == 1
    assert plain.follows <= 0.25  # some scenes are in the style's colours by themselves
    assert drawn.content in (None, 1)


def test_what_is_half_filled_or_nothing_is_not_hollow() -> None:
    scenes = scenes_for("outline", 4)
    outlined, whole = (
        np.stack([np.asarray(way(scene), float) for scene in scenes]) for way in (restyle.outline, render)
    )
    assert not are_hollow((0.3 * outlined + 0.7 * whole).astype(np.uint8), scenes).any()
    assert not are_hollow(np.zeros((4, 64, 64, 3), np.uint8), scenes).any()


def test_a_picture_of_nothing_is_no_shape() -> None:
    assert nearest_shape(np.zeros((64, 64), bool)) is None
    assert skill("moon", np.zeros((1, 64, 64, 3), np.uint8), scenes_for("moon", 1)) == Skill(0.0, None)


def test_new_shapes_are_asked_for_by_their_words() -> None:
    scenes = scenes_for("arrow", 3)
    assert all(len(scene.things) == 1 for scene in scenes)
    assert all(restyle.SHAPES["arrow"].word in said for said in captions_for("arrow", scenes))
