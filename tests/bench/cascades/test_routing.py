"""What deferral by a score is worth, between chance and an oracle."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pytest

from underpaint.bench.cascades import routing, routing_cli
from underpaint.bench.cascades.routing import Examined, Quality, by_chance, curves, deferred, gap_closed, mixed, skills
from underpaint.errors import InvalidArgument

COUNT = 1000
RNG = np.random.default_rng(0)
RIGHT = (RNG.random(COUNT) < 0.7).astype(float)
FAULTLESS = Quality(small=RIGHT, large=np.maximum(RIGHT, RNG.random(COUNT) < 0.9))


def examined(difficulty: np.ndarray, confidence: np.ndarray) -> Examined:
    accuracy = Quality(0.5 + FAULTLESS.small / 2, 0.5 + FAULTLESS.large / 2)
    return Examined(difficulty, confidence, FAULTLESS, accuracy, clip=Quality(RIGHT - 0.2, np.full(COUNT, 0.6)))


KNOWING = examined(difficulty=1 - RIGHT, confidence=RIGHT)
GUESSING = examined(difficulty=RNG.random(COUNT), confidence=RNG.random(COUNT))


@pytest.mark.parametrize("name", ["discriminator", "router", "hybrid"])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.3, 0.5, 1.0])
def test_as_many_are_deferred_as_planned(name: str, share: float) -> None:
    large = deferred(name, GUESSING.difficulty, GUESSING.confidence, share)
    assert large.sum() == round(share * COUNT)


def test_the_worst_are_deferred() -> None:
    confidence, difficulty = np.array([0.9, 0.1, 0.5, 0.4]), np.array([0.9, 0.1, 0.2, 0.3])
    assert deferred("discriminator", difficulty, confidence, 0.5).tolist() == [False, True, False, True]
    assert deferred("router", difficulty, confidence, 0.5).tolist() == [True, False, False, True]


def test_the_hybrid_defers_hard_prompts_first_and_then_poor_pictures() -> None:
    difficulty, confidence = np.arange(8) / 8, np.array([0, 1, 1, 1, 1, 1, 1, 1])
    assert np.flatnonzero(deferred("hybrid", difficulty, confidence, 0.5)).tolist() == [0, 1, 2, 7]


def test_chance_and_oracle_are_the_ends_of_the_gap() -> None:
    gain = FAULTLESS.large - FAULTLESS.small
    best = np.argsort(-gain, kind="stable")[:300]
    oracle = np.zeros(COUNT, bool)
    oracle[best] = True
    assert gap_closed(FAULTLESS, oracle, 0.3) == 1.0
    draws = [gap_closed(FAULTLESS, np.random.default_rng(seed).permutation(COUNT) < 300, 0.3) for seed in range(200)]
    assert np.mean(draws) == pytest.approx(0.0, abs=0.03)
    worst = np.zeros(COUNT, bool)
    worst[np.argsort(gain, kind="stable")[:300]] = True
    assert gap_closed(FAULTLESS, worst, 0.3) < -0.3


def test_where_both_variants_are_as_good_there_is_no_gap() -> None:
    same = Quality(RIGHT, RIGHT)
    assert np.isnan(gap_closed(same, np.arange(COUNT) < 300, 0.3))


def test_a_scorer_that_knows_closes_nearly_all_and_one_that_guesses_nothing() -> None:
    knows, guesses = skills(KNOWING), skills(GUESSING)
    for name in ("discriminator", "router"):
        assert knows[name].auc == 1.0
        assert knows[name].calibration_error == 0.0
        assert knows[name].gap_closed["0.3"] > 0.85
        assert guesses[name].auc == pytest.approx(0.5, abs=0.06)
        assert guesses[name].gap_closed["0.3"] == pytest.approx(0.0, abs=0.15)
        assert guesses[name].gap_closed_low["0.3"] < 0.02
        assert knows[name].gap_closed_low["0.3"] <= knows[name].gap_closed["0.3"] <= knows[name].gap_closed_high["0.3"]
    assert knows["hybrid"].auc is None


def test_curves_begin_with_the_small_variant_and_end_with_the_large_one() -> None:
    for line in curves(GUESSING, FAULTLESS).values():
        assert len(line) == len(routing.CURVE)
        assert line[0] == pytest.approx(FAULTLESS.small.mean())
        assert line[-1] == pytest.approx(FAULTLESS.large.mean())
    assert by_chance(FAULTLESS, 0.0) == mixed(FAULTLESS, np.zeros(COUNT, bool))


def test_the_report_has_what_was_asked_for_and_can_be_read_and_drawn(tmp_path: Path) -> None:
    report = {**routing.to_json(GUESSING), "small": "s", "large": "l"}
    for name in ("discriminator", "router"):
        assert set(report[name]) >= {"auc", "calibration_error", "gap_closed", "gap_closed_second_metric"}
        assert set(report[name]["gap_closed"]) == {"0.1", "0.3", "0.5"}
    assert report["quality"]["faultless"]["small"] == pytest.approx(RIGHT.mean(), abs=1e-3)
    assert "1000 captions" in routing.text(report)
    from underpaint.bench.cascades.routing_plot import quality_by_deferral

    quality_by_deferral(report, tmp_path / "routing.png")
    assert (tmp_path / "routing.png").stat().st_size > 10_000


def test_too_few_captions_are_refused() -> None:
    parser = argparse.ArgumentParser()
    routing_cli.add_parser(parser.add_subparsers())
    with pytest.raises(InvalidArgument, match="captions: got 3"):
        routing_cli.run(parser.parse_args(["routing", "--captions", "3"]))
