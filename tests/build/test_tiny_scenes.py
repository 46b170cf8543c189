import numpy as np
import pytest

from underpaint.build.tiny.judge import judge, score
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


def test_the_judge_is_right_on_true_renders() -> None:
    scenes = list(stream(5, 256))
    shares = score([judge(np.asarray(render(scene)), scene) for scene in scenes])
    assert shares["all"] >= 0.97
    assert min(shares["background"], shares["colour"], shares["size"], shares["shape"]) >= 0.98
    assert min(shares["place"], shares["texture"]) >= 0.9


@pytest.mark.parametrize("attribute", ["colour", "shape", "size", "texture"])
def test_the_judge_sees_what_is_wrong(attribute: str) -> None:
    """Shown one thing and told another, only the attribute that differs is wrong."""
    other = {"colour": "green", "shape": "triangle", "size": "small", "texture": "striped"}
    told = Thing("red", "circle", "large", "plain")
    shown = Thing(**{**vars(told), attribute: other[attribute]})
    verdict = judge(np.asarray(render(_alone(shown))), _alone(told))
    wrong = {name for name, right in vars(verdict.things[0]).items() if not right}
    # a second colour is only looked for in the colour that was told
    assert wrong - {"texture"} == {attribute} - {"texture"}
    assert attribute in wrong


def test_the_judge_sees_a_wrong_background_and_place() -> None:
    thing = Thing("red", "circle", "large", "plain")
    picture = np.asarray(render(_alone(thing)))
    told = Scene("white", (thing,), "on the left", ((17.0, 32.0),))
    verdict = judge(picture, told)
    assert not verdict.background
    assert not verdict.things[0].place


def _alone(thing: Thing) -> Scene:
    return Scene("blue", (thing,), "in the centre", ((32.0, 32.0),))
