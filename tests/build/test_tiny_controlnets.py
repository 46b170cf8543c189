"""ControlNets of the tiny family: what they are told, how their skill is read, and that training moves them alone."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch

from underpaint.build.tiny import control_skill
from underpaint.build.tiny.architectures import VARIANTS, build_controlnet, controlled_unet
from underpaint.build.tiny.control_images import CONTROL_IMAGES, edges, layout, placed_freely
from underpaint.build.tiny.data import pixels
from underpaint.build.tiny.evaluate import load_variant
from underpaint.build.tiny.loop import Budget, Recipe
from underpaint.build.tiny.scenes import stream
from underpaint.build.tiny.train_controlnets import ControlNetTask, draw_examples, train_controlnet

REPOSITORY = Path(__file__).parents[2] / "model_repository"
BASE = VARIANTS["tiny-l"]


def test_control_images_show_things_and_nothing_of_their_colours() -> None:
    for scene in stream(0, 8):
        for draw in CONTROL_IMAGES.values():
            image = draw(scene)
            assert image.shape == (64, 64, 3) and image.dtype == np.uint8
            assert (image == image[..., :1]).all() and image.max() > 200
        assert 0 < np.count_nonzero(edges(scene) > 127) < np.count_nonzero(layout(scene) > 127)


def test_a_layout_stands_where_its_things_do() -> None:
    for scene in stream(1, 16):
        if len(scene.things) == 1:
            told = control_skill.centre(layout(scene)[..., 0] > 127)
            np.testing.assert_allclose(told + 0.5, scene.centres[0], atol=0.6)


def test_freely_placed_scenes_stay_true_and_within_the_frame() -> None:
    rng = random.Random(0)
    moved = 0
    for scene in stream(2, 64):
        freely = placed_freely(rng, scene)
        for (x, y), (was_x, was_y) in zip(freely.centres, scene.centres, strict=True):
            assert 8 < x < 56 and 8 < y < 56
            if scene.relation in ("above", "below", "at the top", "at the bottom"):
                assert y == was_y
            elif scene.relation != "in the centre":
                assert x == was_x
            moved += abs(x - was_x) + abs(y - was_y) > 3
    assert moved > 40


def test_the_skill_of_a_perfect_painter_is_perfect() -> None:
    scenes = [scene for scene in stream(3, 12) if len(scene.things) == 1]
    drawn = pixels(scenes).numpy()
    assert control_skill.compare(drawn, scenes) == {"position_error": 0.0, "overlap": 1.0}
    shifted = control_skill.compare(np.roll(drawn, 3, axis=2), scenes)
    assert shifted["position_error"] == pytest.approx(3.0, abs=0.2) and shifted["overlap"] < 0.9


def test_only_the_controlnet_moves_and_it_begins_without_a_say() -> None:
    variant = load_variant(REPOSITORY, BASE)
    examples = draw_examples(layout, variant, REPOSITORY, 16)
    controlnet = build_controlnet(load_variant(REPOSITORY, controlled_unet(BASE)).unet)
    assert all(not weight.any() for block in controlnet.controlnet_down_blocks for weight in block.parameters())
    task = ControlNetTask(controlnet, variant, examples)
    torch.manual_seed(0)
    task.loss(0).backward()
    assert all(weight.grad is None for weight in variant.unet.parameters())
    assert any(weight.grad is not None and weight.grad.any() for weight in controlnet.controlnet_mid_block.parameters())


def test_training_ends_with_a_controlnet_that_says_something(tmp_path: Path) -> None:
    recipe = Recipe(Budget(steps=3), learning_rate=1e-3, warmup_steps=1, average_decay=0.0)
    trained = train_controlnet("edges", BASE, REPOSITORY, tmp_path, recipe, scenes=16)
    assert any(weight.any() for weight in trained.controlnet_mid_block.parameters())
    assert (tmp_path / "controlnet-tiny-l-edges.pt").is_file()
