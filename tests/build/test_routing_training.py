"""Router and discriminator: what they learn from, how they learn, and what their scores mean."""

from __future__ import annotations

import dataclasses
import itertools
import logging
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from underpaint.build.autoencoders import normalise
from underpaint.build.tiny.architectures import AutoencoderShape, build_autoencoder
from underpaint.build.tiny.data import pixels
from underpaint.build.tiny.facts import CLASSES, facts
from underpaint.build.tiny.judge import judge
from underpaint.build.tiny.painter import Painter
from underpaint.build.tiny.routing import (
    DiscriminatorGraph,
    RouterGraph,
    calibrate,
    write_discriminator,
    write_router,
)
from underpaint.build.tiny.routing_data import (
    SEEDS_PER_CAPTION,
    Judged,
    Share,
    captions_of,
    edited,
    load_judged,
    scenes_of,
    share_of,
)
from underpaint.build.tiny.scenes import Scene, stream
from underpaint.build.tiny.scorers import Advised, Discriminator, Router, agree, scorer_config
from underpaint.build.tiny.skill import auc, calibration_error, platt, sigmoid
from underpaint.build.tiny.tokenizer import encode, load_tokenizer
from underpaint.build.tiny.train_discriminator import DiscriminatorTask, draw_lessons, told_loss
from underpaint.build.tiny.train_router import RouterTask

REPOSITORY = Path(__file__).resolve().parents[2] / "model_repository"
TOKENIZER = load_tokenizer(REPOSITORY / "tiny_tokenizer" / "1")
MICRO = AutoencoderShape("micro", 4, 8, encoder_blocks=(0, 1, 1), decoder_blocks=(1, 1, 1))


def judged(count: int = 12) -> Judged:
    """Drawn scenes; every second one is told falsely, and called wrong in one fact."""
    scenes, rng = list(stream(1, count)), random.Random(0)
    told = [edited(rng, scene) if number % 2 else scene for number, scene in enumerate(scenes)]
    truth = torch.tensor([facts(scene) for scene in scenes])
    claim = torch.tensor([facts(scene) for scene in told])
    verdicts = (truth == claim).float()
    return Judged(
        images=pixels(scenes),
        ids=torch.tensor(encode(TOKENIZER, captions_of(told)), dtype=torch.int16),
        facts=claim.char(),
        right=verdicts.min(dim=1).values,
        verdicts=verdicts,
    )


def losses_of(task: DiscriminatorTask | RouterTask, steps: int) -> list[float]:
    optimiser = torch.optim.Adam(task.modules.parameters(), lr=2e-3)
    losses = []
    for _ in range(steps):
        torch.manual_seed(0)
        loss = task.loss(0)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    return losses


# What is learnt from ------------------------------------------------------------------------------------------------


def test_a_scene_is_in_one_share_however_it_is_told() -> None:
    scenes = list(stream(1, 400))
    shares = [share_of(scene) for scene in scenes]
    assert shares == [share_of(dataclasses.replace(scene, centres=())) for scene in scenes]
    assert 0.6 < shares.count(Share.TRAINING) / len(scenes) < 0.8
    assert min(shares.count(Share.CALIBRATION), shares.count(Share.EXAMINATION)) > 30
    first = list(itertools.islice(scenes_of(Share.EXAMINATION), 20))
    assert {share_of(scene) for scene in first} == {Share.EXAMINATION}


def test_an_edit_changes_what_is_told_and_nothing_else() -> None:
    rng = random.Random(1)
    for scene in stream(1, 100):
        other = edited(rng, scene)
        assert facts(other) != facts(scene)
        assert (len(other.things), other.centres) == (len(scene.things), scene.centres)


def test_labels_are_the_judge_s_and_what_is_there_is_not_painted_again(tmp_path: Path) -> None:
    asked: list[str] = []

    def paint(captions: Sequence[str], seeds: Sequence[int]) -> np.ndarray:
        asked.extend(captions)
        assert len(set(seeds)) == len(captions)
        scenes = [scene for scene in itertools.islice(scenes_of(Share.TRAINING), 4) for _ in range(SEEDS_PER_CAPTION)]
        pictures = pixels(scenes).numpy()
        pictures[1] = 128  # shows nothing
        return pictures

    data = load_judged(tmp_path, Share.TRAINING, 4, paint, TOKENIZER)
    assert len(asked) == len(data) == 4 * SEEDS_PER_CAPTION
    assert asked[0] == asked[1]
    assert data.right.tolist() == [1, 0] + [1] * 6
    told = data.facts == torch.tensor(facts(next(scenes_of(Share.TRAINING)))).char()
    assert told[0].all()
    assert set(data.verdicts[0].tolist()) == {1.0, -1.0}  # every fact of a thing that is there, and none of others
    assert data.verdicts[1].max() == 0
    again = load_judged(tmp_path, Share.TRAINING, 4, paint, TOKENIZER)
    assert len(asked) == 4 * SEEDS_PER_CAPTION
    assert torch.equal(again.images, data.images)


def test_the_painter_paints_what_was_asked_for() -> None:
    scenes: list[Scene] = list(stream(3, 8))
    painter, captions = Painter(REPOSITORY, "tiny", "tiny-m"), captions_of(scenes)
    pictures = painter.paint(captions, range(8), 6, 3.0)
    assert (pictures.shape, pictures.dtype) == ((8, 64, 64, 3), np.uint8)
    assert sum(verdict.background for verdict in judge(pictures, scenes)) >= 6
    np.testing.assert_allclose(painter.paint(captions[5:6], [5], 6, 3.0)[0], pictures[5].astype(float), atol=2)


# How --------------------------------------------------------------------------------------------------------------


def test_readings_agree_where_both_are_sure_of_the_same() -> None:
    fact = torch.zeros(1, sum(CLASSES))
    sure, other = fact.clone(), fact.clone()
    sure[0, 0], other[0, 1] = 50, 50
    assert agree(sure, sure)[0, 0] > 0.99
    assert agree(sure, other)[0, 0] < 0.01
    assert agree(sure, fact)[0, 0] == pytest.approx(1 / CLASSES[0])


def test_certainty_stays_finite_in_bfloat16() -> None:
    sure = torch.zeros(1, sum(CLASSES), dtype=torch.bfloat16)
    sure[0, 0] = 50
    assert agree(sure, sure).logit().isfinite().all()


def test_only_facts_that_were_told_count() -> None:
    logits = torch.tensor([[5.0, -5.0, 5.0]])
    sure = told_loss(logits, torch.tensor([[1.0, 0.0, -1.0]]))
    assert sure < 0.01
    assert told_loss(logits, torch.tensor([[0.0, 0.0, -1.0]])) > 2
    assert told_loss(logits, -torch.ones(1, 3)) == 0


def test_the_discriminator_learns_to_read_and_to_judge() -> None:
    lessons = draw_lessons(TOKENIZER, build_autoencoder(MICRO), 16)
    assert (lessons.facts[:, 0] != lessons.facts[:, 1]).any(dim=1).all()
    reading = losses_of(DiscriminatorTask(lessons, len(TOKENIZER), batch=8), 25)
    judging = losses_of(DiscriminatorTask(lessons, len(TOKENIZER), judged(), batch=16), 25)
    assert reading[-1] < 0.75 * reading[0]
    assert judging[-1] < 0.75 * judging[0]


def test_the_router_learns_and_starts_from_the_reader() -> None:
    reader = Discriminator(scorer_config(len(TOKENIZER)))
    task = RouterTask(judged(), len(TOKENIZER), reader, batch=16)
    text = reader.text_model.state_dict()
    assert all(torch.equal(weight, text[name]) for name, weight in task.router.text_model.state_dict().items())
    losses = losses_of(task, 40)
    assert losses[-1] < 0.7 * losses[0]


# What scores mean ---------------------------------------------------------------------------------------------------


def test_auc_is_the_chance_of_the_right_order() -> None:
    happened = np.array([0, 0, 1, 1])
    assert auc(np.array([0.1, 0.2, 0.3, 0.4]), happened) == 1.0
    assert auc(np.array([0.4, 0.3, 0.2, 0.1]), happened) == 0.0
    assert auc(np.array([0.1, 0.3, 0.2, 0.4]), happened) == 0.75
    assert auc(np.full(4, 0.5), happened) == 0.5
    assert np.isnan(auc(np.arange(4), np.ones(4)))


def test_platt_makes_probabilities_of_logits() -> None:
    rng = np.random.default_rng(0)
    logits = 3 * rng.normal(size=20_000)
    happened = (rng.random(20_000) < sigmoid(0.4 * logits - 1)).astype(float)
    scale, offset = platt(logits, happened)
    assert (scale, offset) == (pytest.approx(0.4, abs=0.03), pytest.approx(-1, abs=0.06))
    assert (
        calibration_error(sigmoid(scale * logits + offset), happened)
        < 0.02
        < calibration_error(sigmoid(logits), happened)
    )


def test_scores_that_separate_perfectly_stay_finite() -> None:
    logits = np.array([-1.0, -0.5, 0.5, 1.0])
    scale, offset = platt(logits, (logits > 0).astype(float))
    assert np.isfinite([scale, offset]).all()
    assert scale > 1


def test_graphs_give_the_calibrated_scores_of_the_classes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(0)
    router, discriminator = (kind(scorer_config(len(TOKENIZER))).eval() for kind in (Router, Advised))
    torch.nn.init.zeros_(discriminator.discriminator.direct.weight)  # or scores are too small to be compared
    logits, happened = np.linspace(-3, 3, 200), (np.arange(200) % 7 < np.linspace(0, 7, 200)).astype(float)
    with caplog.at_level(logging.INFO):
        for scorer in (router, discriminator):
            calibrate(scorer, logits, happened, "of-the-small-one")
    assert "AUC" in caplog.text
    write_router(router, tmp_path)
    write_discriminator(discriminator, tmp_path)
    inputs = {
        "image": pixels(stream(1, 3)).numpy(),
        "input_ids": np.array(encode(TOKENIZER, captions_of(list(stream(1, 3)))), np.int32),
    }
    for name, kind, graph in (("router", Router, RouterGraph), ("discriminator", Advised, DiscriminatorGraph)):
        folder = tmp_path / name / "1"
        session = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
        wanted = {each.name: inputs[each.name] for each in session.get_inputs()}
        (scores,) = session.run(["score"], wanted)
        model = kind.from_pretrained(folder, torch_dtype=torch.float32).eval()
        tensors = [torch.from_numpy(wanted[each]) for each in ("image", "input_ids") if each in wanted]
        with torch.no_grad():
            np.testing.assert_allclose(scores, graph(model)(*tensors).numpy(), atol=1e-5)
        assert scores.shape == (3, 1)
        assert model.config.small_weights == "of-the-small-one"
        assert list(model.config.quantiles) == sorted(model.config.quantiles)
        assert sum(file.stat().st_size for file in folder.iterdir()) < 2.5 * 2**20
    with torch.no_grad():
        raw = discriminator(normalise(torch.from_numpy(inputs["image"])), torch.from_numpy(inputs["input_ids"]).long())
    scale, offset = platt(logits, happened)
    np.testing.assert_allclose(scores[:, 0], sigmoid(scale * raw.numpy() + offset), atol=1e-3)  # float16 weights
    assert not np.allclose(scores[:, 0], sigmoid(raw.numpy()), atol=1e-2)
