import argparse
import copy
import dataclasses
import math
from pathlib import Path

import pytest
import torch
from torch import nn

from underpaint.build.autoencoders import denormalise, normalise
from underpaint.build.tiny import cli, workshop
from underpaint.build.tiny.architectures import (
    TEACHER,
    TINY_L,
    TINY_M,
    TINY_S,
    VARIANTS,
    AutoencoderShape,
    VariantShape,
    build_scheduler,
)
from underpaint.build.tiny.data import Corpus, pixels
from underpaint.build.tiny.distill import Level, StepDistillation
from underpaint.build.tiny.evaluate import load_variant
from underpaint.build.tiny.facts import CLASSES
from underpaint.build.tiny.loop import Budget, Recipe, Task, train
from underpaint.build.tiny.scenes import stream
from underpaint.build.tiny.tokenizer import load_tokenizer
from underpaint.build.tiny.train_autoencoder import AutoencoderTask
from underpaint.build.tiny.train_clip import ClipTask, draw_pairs
from underpaint.build.tiny.train_variant import UNTOLD, VariantTask, corrupt_flow, corrupt_v, reading_loss
from underpaint.errors import InvalidArgument, NotFound

MICRO = AutoencoderShape("micro", 4, 8, encoder_blocks=(0, 1, 1), decoder_blocks=(1, 1, 1))
VOCABULARY = 40
REPOSITORY = Path(__file__).resolve().parents[2] / "model_repository"


def micro_variant(shape: VariantShape) -> VariantShape:
    levels = len(shape.unet_channels)
    return dataclasses.replace(shape, autoencoder=MICRO, unet_channels=(16,) * levels, text_width=16)


def micro_task(shape: VariantShape) -> VariantTask:
    generator = torch.Generator().manual_seed(1)
    corpus = Corpus(
        latents=torch.randn(64, 4, 16, 16, generator=generator).half(),
        ids=torch.randint(VOCABULARY, (64, 4, 24), generator=generator).short(),
        empty_ids=torch.full((24,), VOCABULARY - 1).short(),
        facts=torch.stack([torch.randint(classes, (64,), generator=generator) for classes in CLASSES], dim=1).char(),
    )
    return VariantTask(micro_variant(shape), corpus, VOCABULARY, batch=4)


class NotNow(Exception):
    """Instead of training."""


def no_training(monkeypatch: pytest.MonkeyPatch) -> list[Task]:
    """Whatever the workshop would train, as it stands when training would begin."""
    started: list[Task] = []

    def instead(task: Task, recipe: Recipe, checkpoint: Path, fresh: bool) -> None:
        started.append(task)
        raise NotNow

    monkeypatch.setattr(workshop, "train", instead)
    return started


def recipe(steps: int) -> Recipe:
    """A schedule that does not know where it will be interrupted: no decay before the last step."""
    return Recipe(Budget(steps=steps), decay_share=1e-6, warmup_steps=2)


@pytest.mark.parametrize("name", VARIANTS)
def test_a_resumed_run_equals_an_uninterrupted_one(name: str, tmp_path: Path) -> None:
    whole = train(micro_task(VARIANTS[name]), recipe(4), tmp_path / "whole.pt")
    train(micro_task(VARIANTS[name]), recipe(2), tmp_path / "parts.pt")
    resumed = train(micro_task(VARIANTS[name]), recipe(4), tmp_path / "parts.pt")
    assert resumed.progress.step == 4
    assert_same(whole.average, resumed.average)


def test_a_resumed_autoencoder_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    whole = train(AutoencoderTask(MICRO, batch=2), recipe(4), tmp_path / "whole.pt")
    train(AutoencoderTask(MICRO, batch=2), recipe(2), tmp_path / "parts.pt")
    resumed = train(AutoencoderTask(MICRO, batch=2), recipe(4), tmp_path / "parts.pt")
    assert_same(whole.average, resumed.average)


def test_fresh_ignores_the_checkpoint(tmp_path: Path) -> None:
    train(AutoencoderTask(MICRO, batch=2), recipe(2), tmp_path / "run.pt")
    again = train(AutoencoderTask(MICRO, batch=2), recipe(1), tmp_path / "run.pt", fresh=True)
    assert again.progress.step == 1


def test_the_rate_warms_up_and_decays_to_zero() -> None:
    schedule = Recipe(Budget(minutes=10), learning_rate=1.0, warmup_steps=10, decay_share=0.4)
    assert schedule.rate(0, 0.0) == pytest.approx(0.1)
    assert schedule.rate(50, 0.5) == 1.0
    assert schedule.rate(90, 0.8) == pytest.approx(0.5)
    assert schedule.rate(99, 1.0) == pytest.approx(0.0)


def test_targets_give_back_the_latents() -> None:
    """With a perfect answer both parametrisations lead back to the clean latents."""
    latents, noise, levels = torch.randn(3, 4, 8, 8), torch.randn(3, 4, 8, 8), torch.tensor([0.1, 0.5, 0.9])
    flow = corrupt_flow(latents, noise, levels)
    torch.testing.assert_close(flow.sample - levels.view(-1, 1, 1, 1) * flow.target, latents)
    alphas_cumprod = build_scheduler(TINY_S).alphas_cumprod
    v = corrupt_v(latents, noise, levels, alphas_cumprod)
    alpha = alphas_cumprod[v.timestep.long()].view(-1, 1, 1, 1)
    signal, sigma = alpha.sqrt().flatten(), (1 - alpha).sqrt().flatten()
    torch.testing.assert_close(sigma / (sigma + signal), levels, rtol=0.0, atol=0.01)
    restored = alpha.sqrt() * v.sample - (1 - alpha).sqrt() * v.target
    torch.testing.assert_close(restored, latents, rtol=1e-4, atol=1e-5)


def test_the_schedule_ends_in_pure_noise() -> None:
    assert build_scheduler(TINY_S).alphas_cumprod[-1] == 0
    assert build_scheduler(TINY_L).sigmas[0] == 1


def test_pixels_survive_normalisation() -> None:
    images = pixels(stream(1, 4))
    assert torch.equal(denormalise(normalise(images)), images)


def assert_same(one: nn.Module, other: nn.Module) -> None:
    for (name, left), right in zip(one.state_dict().items(), other.state_dict().values(), strict=True):
        assert torch.equal(left, right), name


def test_the_command_line_names_the_workshop_s_parts() -> None:
    assert tuple(workshop.PARTS) == cli.PARTS
    assert set(workshop.MINUTES) < set(cli.PARTS)


def test_an_unknown_part_is_refused(tmp_path: Path) -> None:
    parser = argparse.ArgumentParser()
    cli.add_arguments(parser)
    with pytest.raises(InvalidArgument, match="tiny-xxl"):
        cli.run(parser.parse_args(["--only", "tokenizer,tiny-xxl", "--out", str(tmp_path)]))


def test_reading_asks_for_what_was_told_and_no_more() -> None:
    logits = torch.zeros(2, sum(CLASSES))
    told = torch.zeros(2, len(CLASSES), dtype=torch.long)
    surprise = sum(math.log(classes) for classes in CLASSES) / len(CLASSES)
    assert reading_loss(logits, told).item() == pytest.approx(surprise, rel=1e-5)
    told[1] = UNTOLD
    assert reading_loss(logits, told).item() == pytest.approx(surprise / 2, rel=1e-5)


def test_a_distilled_student_lands_where_its_teacher_does() -> None:
    """Its loss falls on the batch that it is trained on, and its teacher stays as it was."""
    student = StepDistillation(micro_task(TINY_S), micro_task(TEACHER).modules, guidance_scale=30.0, steps=2)
    before = copy.deepcopy(student.teacher)
    optimiser = torch.optim.Adam(student.modules.parameters(), lr=1e-3)
    losses = []
    for _ in range(12):
        torch.manual_seed(0)
        loss = student.loss(0)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    assert_same(before, student.teacher)


def test_two_steps_of_a_consistent_teacher_are_one() -> None:
    """A teacher that knows the picture answers the same v whatever the step, so that nothing is left to learn."""
    task = micro_task(TINY_S)
    distillation = StepDistillation(task, task.modules, guidance_scale=1.0, steps=2)
    drawn = task.draw_clean()
    starts = distillation._starts(len(drawn.latents))
    begin, middle, end = (distillation._level(starts - half) for half in range(3))
    x = begin.signal * drawn.latents + begin.noise * drawn.noise

    def knows(x: torch.Tensor, ids: torch.Tensor, start: Level, stop: Level) -> torch.Tensor:
        return stop.signal * drawn.latents + stop.noise * drawn.noise

    distillation._teacher_step = knows  # type: ignore[method-assign]
    v = distillation._target(x, drawn, begin, middle, end)
    torch.testing.assert_close(v, begin.signal * drawn.noise - begin.noise * drawn.latents, rtol=1e-3, atol=1e-3)


def test_a_student_needs_its_teacher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workshop, "_variant_task", lambda *args: micro_task(TINY_S))
    with pytest.raises(NotFound, match="train teacher before"):
        workshop.PARTS["tiny-s"](workshop.Workshop(tmp_path, tmp_path, 0, 1.0, False))


def test_a_grown_network_starts_where_the_shallower_one_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shallow = train(micro_task(TINY_M), recipe(2), tmp_path / "tiny-m.pt").average
    monkeypatch.setattr(workshop, "_variant_task", lambda _, shape: micro_task(shape))
    monkeypatch.setattr(workshop, "VARIANTS", {"tiny-m": micro_variant(TINY_M)})
    started = no_training(monkeypatch)
    with pytest.raises(NotNow):
        workshop.PARTS["tiny-l"](workshop.Workshop(tmp_path, tmp_path, 0, 1.0, False))
    deep = started[0].modules
    assert len(deep["unet"].state_dict()) > len(shallow["unet"].state_dict())
    states = torch.randn(2, 24, 16)
    sample, timestep = torch.randn(2, 4, 16, 16), torch.tensor([3.0, 700.0])
    with torch.no_grad():
        expected = shallow["unet"](sample, timestep, states).sample
        torch.testing.assert_close(deep["unet"](sample, timestep, states).sample, expected)
    assert_same(deep["text_encoder"], shallow["text_encoder"])


def test_two_towers_learn_to_tell_pictures_apart() -> None:
    pairs = draw_pairs(load_tokenizer(REPOSITORY / "tiny_tokenizer" / "1"), 2)
    task = ClipTask(pairs, 633, groups=2)
    optimiser = torch.optim.Adam(task.modules.parameters(), lr=1e-3)
    first = last = math.nan
    for step in range(15):
        torch.manual_seed(0)
        loss = task.loss(step)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        first, last = (loss.item() if math.isnan(first) else first), loss.item()
    assert last < 0.7 * first


def test_a_variant_can_go_on_from_exported_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the checkpoints are gone, the repository's weights, and the latent space that they belong to, remain."""
    monkeypatch.setattr(workshop, "load_corpus", lambda *args: micro_task(TINY_M).corpus)
    started = no_training(monkeypatch)
    with pytest.raises(NotNow):
        workshop.train_variant(workshop.Workshop(tmp_path, REPOSITORY, 0, 1.0, False, from_exported=True), TINY_M)
    exported = load_variant(REPOSITORY, TINY_M)
    for name, weight in exported.unet.state_dict().items():
        torch.testing.assert_close(started[0].modules["unet"].state_dict()[name], weight)
    assert (tmp_path / "autoencoder-f8" / "config.json").is_file()
