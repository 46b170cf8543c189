"""`underpaint profile`: what it makes of what it measures."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import pytest

from underpaint.bench.control.pacing import latency, sharing, spread_of
from underpaint.bench.control.profile_cli import text
from underpaint.bench.control.profiling import SmallModels, load_scores, pair_up, save_scores, with_cascades
from underpaint.bench.demand.load import Cycle
from underpaint.build.tiny.scenes import caption, render, stream
from underpaint.cli import main
from underpaint.client.messages import Call
from underpaint.control.pareto import Paired
from underpaint.control.profile import Latency, Profile, VariantProfile
from underpaint.deployment import Deployment, Variant
from underpaint.errors import Unsupported


def deployment() -> Deployment:
    variants = {n: Variant(n, 4, 8, 1.0, 2.0, ((64, 64),), ("ddim",), 16) for n in ("tiny-s", "tiny-l")}
    return Deployment("tiny", variants, small="tiny-s", large="tiny-l")


class FakeModels:
    """Answers as the small models would: a prompt is as hard as it is long, an image as good as it is bright."""

    def __init__(self, *deployed: str) -> None:
        self.deployed = {"tiny_tokenizer", *deployed}
        self.asked: list[str] = []

    def ready(self, model: str) -> bool:
        return model in self.deployed

    def infer(self, call: Call, timeout_s: float | None) -> dict[str, np.ndarray]:
        assert call.model in self.deployed
        self.asked.append(call.model)
        if call.model == "tiny_tokenizer":
            length = len(call.inputs["prompt"].item())
            return {"input_ids": np.full((1, 16), length, np.int32)}
        if call.model == "router":
            return {"score": np.array([[call.inputs["input_ids"][0, 0] / 200]])}
        if call.model == "discriminator":
            assert call.inputs["image"].shape == (1, 64, 64, 3)
            return {"score": np.array([[call.inputs["image"].mean() / 255]])}
        return {"embedding": np.zeros((1, 8))}


def models(fake: FakeModels) -> SmallModels:
    return SmallModels(cast("object", fake), deployment())  # type: ignore[arg-type]


def test_as_many_at_a_time_take_as_long_as_it_takes_to_make_them() -> None:
    cycles = [Cycle(worker, 2.0 * n, 2.0 * (n + 1)) for worker in range(4) for n in range(5)]
    found = latency(cycles, 4)
    assert (found.batch, found.mean_s, found.p50_s, found.p95_s) == (4, 2.0, 2.0, 2.0)
    assert found.images_per_s == 2
    assert found.cores is None
    assert latency(cycles, 4, cpu_s=0.75).cores == 1.5


def test_what_variants_do_to_each_other_is_measured() -> None:
    """Each keeps two cores busy with four images, and makes 8 and 4 a second alone; two times the cores are wanted."""
    little = VariantProfile("s", 4, (Latency(4, 0.5, cpu_s=0.25),))
    big = VariantProfile("l", 9, (Latency(4, 1.0, cpu_s=0.5),))
    fair = sharing([little, big], [4.0, 2.0], cores=2)
    assert [each.yields for each in fair] == [1.0, 1.0]
    bullied = sharing([little, big], [2.0, 3.0], cores=2)
    assert [each.yields for each in bullied] == [3.0, pytest.approx(1 / 3, abs=1e-4)]
    assert sharing([little, big], [2.0, 3.0], cores=4) == [little, big]  # there is enough for both


def test_the_spread_of_lone_images_is_relative_to_their_mean() -> None:
    spread = spread_of([Cycle(0, 0.0, took) for took in (1.0, 1.0, 1.0, 5.0)])
    assert (spread[0], spread[len(spread) // 2], spread[-1]) == (0.5, 0.5, 2.5)


def test_small_models_are_timed_where_there_are_any() -> None:
    costs = models(FakeModels("router", "embed_text")).costs()
    assert costs.router_s > 0 and costs.embedder_s > 0
    assert costs.discriminator_s == costs.vae_encoder_s == 0


def test_the_same_prompts_are_painted_by_both_scored_and_judged() -> None:
    """The small variant paints another scene than was asked for, the large one the right one."""
    prompts = [caption(scene) for scene in stream(60_000, 6)]
    scenes = dict(zip(prompts, stream(60_000, 6), strict=True))
    wrong = np.zeros((64, 64, 3), np.uint8)

    def paint(variant: str, prompt: str, seed: int) -> np.ndarray:
        return wrong if variant == "tiny-s" else np.asarray(render(scenes[prompt]))

    paired = pair_up(paint, models(FakeModels("router", "discriminator")), 6, lambda: None)
    assert paired.small_loss.tolist() == [1] * 6
    assert paired.large_loss.tolist() == [0] * 6
    assert paired.confidence.tolist() == [0] * 6
    assert paired.router.tolist() == [len(prompt) / 200 for prompt in prompts]


def test_without_scorers_there_are_no_cascades() -> None:
    with pytest.raises(Unsupported, match="router"):
        pair_up(lambda *_: np.zeros((64, 64, 3), np.uint8), models(FakeModels()), 1, lambda: None)


def test_cascades_and_losses_come_into_the_profile() -> None:
    fails = np.arange(100) % 4 == 0
    paired = Paired(fails * 1.0, 1.0 - fails, fails * 1.0, np.zeros(100))
    light, heavy = VariantProfile("s", 4, (Latency(1, 0.1),)), VariantProfile("l", 50, (Latency(1, 1.0),))
    profile = with_cascades(Profile("tiny", (light, heavy)), paired, "s", "l")
    assert [each.loss for each in profile.variants] == [0.25, 0.0]
    best = min(profile.cascades, key=lambda row: row.loss)
    assert best.loss == 0 and best.large_share == pytest.approx(0.25)
    assert Profile.from_json(profile.to_json()) == profile
    assert "Pareto" in text(replace(profile, shared=True))


def test_scores_survive_their_file(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    paired = Paired(random.random(20), random.random(20), random.integers(2, size=20) * 1.0, np.zeros(20))
    save_scores(paired, tmp_path / "scores.csv")
    again = load_scores(tmp_path / "scores.csv")
    for name in ("router", "confidence", "small_loss", "large_loss"):
        assert getattr(again, name) == pytest.approx(getattr(paired, name), abs=1e-6)


@pytest.mark.parametrize(
    ("option", "value"), [("--seconds", "0"), ("--concurrency", "0,2"), ("--concurrency", "x"), ("--pareto", "-1")]
)
def test_bad_options_are_named(option: str, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["profile", option, value]) == 2
    assert option.removeprefix("--") in capsys.readouterr().err


@pytest.mark.server
def test_a_server_is_profiled(tmp_path: Path) -> None:
    file = tmp_path / "profile.json"
    assert main(["profile", "--seconds", "1", "--concurrency", "1,4", "--output", str(file)]) == 0
    profile = Profile.load(file)
    assert [each.batch for each in profile.variants[0].latencies] == [1, 4]
    assert all(each.load_s > 0 and each.weights for each in profile.variants)
    assert profile.costs.embedder_s > 0 and profile.costs.vae_encoder_s > 0
    assert json.loads(file.read_text())["machine"]
