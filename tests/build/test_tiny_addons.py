"""Training LoRAs, in seconds: what is drawn, that the loss falls, and that our own reader takes the file."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from underpaint.addons.layout import LoraLayout
from underpaint.addons.lora import read_lora
from underpaint.build.tiny import restyle
from underpaint.build.tiny.architectures import VARIANTS
from underpaint.build.tiny.data import normalise
from underpaint.build.tiny.evaluate import load_variant
from underpaint.build.tiny.loop import Budget, Recipe
from underpaint.build.tiny.scenes import COLOURS, Scene, render, stream
from underpaint.build.tiny.train_addons import ADDONS, AddonTask, draw, draw_examples, fitted, train_addon

REPOSITORY = Path(__file__).parents[2] / "model_repository"
BASE = VARIANTS["tiny-m"]
LAYOUTS = {part: LoraLayout.load(REPOSITORY / f"tiny-m_{part}" / "1") for part in ("unet", "text_encoder")}


@pytest.mark.parametrize("name", restyle.STYLES)
def test_a_style_changes_how_every_scene_is_drawn(name: str) -> None:
    for scene in stream(0, 8):
        picture, said = draw(ADDONS[name], scene, 0)
        assert picture.shape == (64, 64, 3) and picture.dtype == np.uint8
        assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 1, "a thing is lost in its background"
        assert "background" in said


def test_styles_are_what_they_are_called() -> None:
    scenes = list(stream(0, 8))
    inks = {COLOURS[name] for name in ("black", "blue", "orange", "white")}
    for scene in scenes:
        assert (np.asarray(restyle.STYLES["night"](scene))[0] == COLOURS["black"]).all()
        corner = tuple(np.asarray(restyle.STYLES["pastel"](scene))[0, 0])
        assert corner in {COLOURS[name] for name in ("pink", "yellow", "cyan", "white")}
        assert tuple(np.asarray(restyle.STYLES["palette"](scene))[0, 0]) in inks
        drawn = np.any(np.asarray(restyle.outline(scene)) != np.asarray(restyle.outline(scene))[0, 0], axis=-1)
        whole = np.any(np.asarray(render(scene)) != np.asarray(render(scene))[0, 0], axis=-1)
        assert 0 < drawn.sum() < whole.sum()


@pytest.mark.parametrize("name", restyle.STYLES)
def test_a_style_is_not_the_plain_drawing(name: str) -> None:
    changed = [np.abs(restyle_of(name, scene) - np.asarray(render(scene), int)).max() > 40 for scene in stream(0, 32)]
    assert sum(changed) > 24  # some scenes are light, or on black, by themselves


@torch.no_grad()
@pytest.mark.parametrize("name", restyle.STYLES)
def test_the_autoencoder_can_paint_every_style(name: str) -> None:
    autoencoder = load_variant(REPOSITORY, VARIANTS["tiny-l"]).autoencoder
    drawn = torch.from_numpy(np.stack([restyle_of(name, scene) for scene in stream(1, 16)]).astype(np.uint8))
    painted = autoencoder.decoder(autoencoder.encoder(normalise(drawn)))
    error = (normalise(drawn) - painted.clamp(-1, 1)).square().mean().item()
    assert 10 * np.log10(4 / error) > 20


def test_latents_that_are_fitted_are_painted_better_and_stay_near() -> None:
    autoencoder = load_variant(REPOSITORY, VARIANTS["tiny-l"]).autoencoder
    drawn = normalise(torch.from_numpy(np.stack([np.asarray(restyle.outline(scene)) for scene in stream(1, 4)])))
    encoded = autoencoder.encode(drawn).latents.detach()
    better = fitted(autoencoder, drawn, encoded)
    errors = [torch.nn.functional.mse_loss(autoencoder.decode(each).sample, drawn).item() for each in (encoded, better)]
    assert errors[1] < 0.6 * errors[0]
    assert (better - encoded).std() < 0.3 * encoded.std()


def test_what_a_file_has_not_begins_anew() -> None:
    variant = load_variant(REPOSITORY, BASE)
    shape = dataclasses.replace(ADDONS["night"], text=True)
    task = AddonTask(shape, variant, draw_examples(shape, variant, REPOSITORY, 16), 0.0)
    before = {key: each.clone() for key, each in zip(task.keys, task.modules["factors"].parameters(), strict=True)}
    saved = {key: torch.ones_like(each) for key, each in before.items() if key.startswith("unet.")}
    task.take_up(saved)
    for key, each in zip(task.keys, task.modules["factors"].parameters(), strict=True):
        assert torch.equal(each, saved.get(key, before[key]))


def restyle_of(name: str, scene: Scene) -> np.ndarray:
    return np.asarray(restyle.STYLES[name](scene), int)


@pytest.mark.parametrize("name", restyle.SHAPES)
def test_a_new_shape_is_drawn_and_said_in_the_place_of_one(name: str) -> None:
    for index, scene in enumerate(stream(0, 16)):
        picture, said = draw(ADDONS[name], scene, index)
        assert f"{scene.things[0].colour} {name}" in said
        assert np.any(picture != np.asarray(render(scene)))


def test_a_few_steps_lower_the_loss_and_leave_a_file_that_is_served(tmp_path: Path) -> None:
    shape = dataclasses.replace(ADDONS["moon"], rank=2)
    recipe = Recipe(Budget(steps=6), learning_rate=3e-3, warmup_steps=1, average_decay=0.0)
    path = train_addon(shape, BASE, REPOSITORY, tmp_path, tmp_path / "lora", recipe, scenes=32)
    lora = read_lora("moon", path.read_bytes(), LAYOUTS)
    assert lora.unet is not None and lora.unet.shape == (2, LAYOUTS["unet"].width)
    assert lora.text_encoder is not None and lora.text_encoder.any() and lora.unet.any()
    assert path.stat().st_size < 2**20


def test_only_the_factors_move() -> None:
    variant = load_variant(REPOSITORY, BASE)
    task = AddonTask(ADDONS["night"], variant, draw_examples(ADDONS["night"], variant, REPOSITORY, 16), 0.0)
    torch.manual_seed(0)
    task.loss(0).backward()
    moving = {name for name, each in variant.unet.named_parameters() if each.grad is not None}
    assert moving and all("lora_" in name for name in moving)
    assert all(each.grad is None for each in variant.text_encoder.parameters())
