import numpy as np
import pytest

from underpaint.build.tiny.judge import Pictures, judge, read, score
from underpaint.build.tiny.scenes import SIDE, Scene, Split, Thing, render, stream

CENTRE = ((32.0, 32.0),)
DISC = Thing("red", "circle", "large", "plain")


def pictures(*scenes: Scene) -> Pictures:
    return np.stack([np.asarray(render(scene)) for scene in scenes])


def alone(thing: Thing, relation: str = "in the centre", centre: tuple[float, float] = CENTRE[0]) -> Scene:
    return Scene("blue", (thing,), relation, (centre,))


@pytest.mark.parametrize("split", Split)
def test_it_is_right_on_true_renders(split: Split) -> None:
    scenes = list(stream(5, 128, split))
    shares = score(judge(pictures(*scenes), scenes))
    assert min(shares.values()) >= 0.99, shares


@pytest.mark.parametrize("attribute", ["colour", "shape", "size", "texture"])
def test_it_sees_what_is_wrong(attribute: str) -> None:
    """Shown one thing and told another, only the attribute that differs is wrong."""
    other = {"colour": "green", "shape": "triangle", "size": "small", "texture": "striped"}
    shown = Thing(**{**vars(DISC), attribute: other[attribute]})
    (verdict,) = judge(pictures(alone(shown)), [alone(DISC)])
    assert {name for name, right in vars(verdict.things[0]).items() if not right} == {attribute}
    assert not verdict.all_right


def test_it_sees_a_wrong_background_and_place() -> None:
    told = Scene("white", (DISC,), "on the left", ((17.0, 32.0),))
    (verdict,) = judge(pictures(alone(DISC)), [told])
    assert not verdict.background
    assert not verdict.relation
    assert not verdict.things[0].place


def test_it_sees_a_swap_and_a_thing_too_many() -> None:
    pair = (DISC, Thing("green", "star", "small", "dotted"))
    centres = ((32.0, 17.0), (32.0, 47.0))
    swapped = Scene("blue", pair[::-1], "above", centres)
    verdict, extra = judge(
        pictures(Scene("blue", pair, "above", centres), swapped), [swapped, alone(DISC, "at the top", centres[0])]
    )
    assert verdict.relation
    assert not any(thing.colour or thing.shape for thing in verdict.things)
    assert not extra.relation


def test_a_place_far_from_any_told_one_is_none() -> None:
    (reading,) = read(pictures(alone(DISC, centre=(22.0, 22.0))))
    assert [seen.place for seen in reading.things] == [None]


def test_noise_flat_colour_and_half_a_scene_are_unreadable() -> None:
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (8, SIDE, SIDE, 3)).astype(np.uint8)
    smooth = np.repeat(np.repeat(noise[:, ::8, ::8], 8, axis=1), 8, axis=2)
    flat = np.full((1, SIDE, SIDE, 3), 90, np.uint8)
    mixed = (pictures(alone(DISC)) / 2 + smooth[:1] / 2).astype(np.uint8)
    assert not any(reading.readable for reading in read(np.concatenate([noise, smooth, flat, mixed])))


def test_it_forgives_what_an_autoencoder_does() -> None:
    scenes = list(stream(6, 64))
    blurred = pictures(*scenes).astype(float)
    blurred[:, 1:-1] = (blurred[:, :-2] + 2 * blurred[:, 1:-1] + blurred[:, 2:]) / 4
    noisy = np.clip(blurred + np.random.default_rng(0).normal(0, 5, blurred.shape), 0, 255).astype(np.uint8)
    assert score(judge(noisy, scenes))["all"] >= 0.97
