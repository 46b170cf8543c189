import numpy as np

from underpaint.build.tiny.facts import CLASSES, facts
from underpaint.build.tiny.scenes import (
    COLOURS,
    PHRASINGS,
    SHAPES,
    SIDE,
    TEXTURES,
    Scene,
    Split,
    Thing,
    caption,
    is_held_out,
    render,
    scene_at,
    stream,
)


def test_a_scene_is_a_function_of_seed_and_index() -> None:
    assert list(stream(7, 20)) == [scene_at(7, index) for index in range(20)]
    assert list(stream(7, 20)) != list(stream(8, 20))
    pictures = [np.asarray(render(scene_at(7, 3))) for _ in range(2)]
    np.testing.assert_array_equal(*pictures)
    assert pictures[0].shape == (SIDE, SIDE, 3)


def test_held_out_combinations_never_train() -> None:
    assert not any(is_held_out(thing) for scene in stream(2, 3000) for thing in scene.things)
    for scene in stream(2, 50, Split.HELD_OUT):
        assert any(map(is_held_out, scene.things))


def test_every_colour_and_shape_is_learnt_in_some_combination() -> None:
    combinations = [Thing(c, s, "small", t) for c in COLOURS for s in SHAPES for t in TEXTURES]
    shown = [thing for thing in combinations if not is_held_out(thing)]
    assert 0.8 < len(shown) / len(combinations) < 0.95
    assert {thing.colour for thing in shown} == set(COLOURS)
    assert {thing.shape for thing in shown} == set(SHAPES)


def test_captions_tell_the_scene() -> None:
    things = (Thing("red", "circle", "small", "plain"), Thing("blue", "square", "large", "striped"))
    scene = Scene("yellow", things, "above", ((32.0, 17.0), (32.0, 47.0)))
    assert caption(scene) == "a small red circle above a large striped blue square, on a yellow background"
    assert len({caption(scene, phrasing) for phrasing in range(PHRASINGS)}) == PHRASINGS


def test_facts_do_not_depend_on_which_thing_is_told_first() -> None:
    near, far = Thing("red", "circle", "small", "plain"), Thing("blue", "square", "large", "striped")
    centres = ((32.0, 17.0), (32.0, 47.0))
    one = Scene("yellow", (near, far), "above", centres)
    other = Scene("yellow", (far, near), "below", centres[::-1])
    assert facts(one) == facts(other) != facts(Scene("yellow", (far, near), "above", centres))
    assert all(0 <= fact < classes for fact, classes in zip(facts(one), CLASSES, strict=True))
