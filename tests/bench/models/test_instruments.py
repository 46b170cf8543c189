from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from underpaint.bench.judging.clip import Clip
from underpaint.bench.models.instruments import Autoencoder, draw, measure_clip, measure_judge
from underpaint.build.tiny.scenes import Scene, stream
from underpaint.deployment import Deployment

REPOSITORY = Path(__file__).resolve().parents[3] / "model_repository"
SCENES = list(stream(11, 64))


class Pixels:
    """An embedder without any sense: pictures by their pixels, captions by their letters."""

    def images(self, pictures: np.ndarray) -> np.ndarray:
        return _unit(pictures.reshape(len(pictures), -1)[:, :128].astype(float))

    def texts(self, prompts: Sequence[str]) -> np.ndarray:
        return _unit(np.array([[ord(letter) for letter in prompt.ljust(128)[:128]] for prompt in prompts], float))


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def deployment() -> Deployment:
    return Deployment.load(REPOSITORY / "generate" / "1")


def test_the_judge_reads_what_the_committed_autoencoders_make(deployment: Deployment) -> None:
    autoencoders = {name: Autoencoder(REPOSITORY, name) for name in deployment.variants}
    report = measure_judge(autoencoders, SCENES, seed=0)
    assert report.renders == 1
    assert report.reconstructions >= 0.95
    assert report.noise_unreadable >= 0.98


def test_the_committed_clip_finds_what_belongs_together(deployment: Deployment) -> None:
    report = measure_clip(Clip(REPOSITORY, deployment.family), SCENES, sizes=(16, 64))
    assert report.top1["16"] >= report.top1["64"] >= 0.9
    assert report.order_agreement > 0.65


def test_an_embedder_without_sense_finds_nothing() -> None:
    report = measure_clip(Pixels(), SCENES, sizes=(64,))
    assert report.top1["64"] < 0.1
    assert report.order_agreement < 0.6


def test_pictures_are_drawn_in_order() -> None:
    one: Scene = SCENES[3]
    assert np.array_equal(draw(SCENES)[3], draw([one])[0])
