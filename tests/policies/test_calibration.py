"""Thresholds, and the calibration that carries them: it survives its file and speaks for what it was measured on."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.policies.examples import CALIBRATION
from underpaint.deployment import Deployment, Variant
from underpaint.errors import InvalidArgument
from underpaint.policies.calibration import FILE_NAME, Calibration, problem
from underpaint.policies.thresholds import NEVER, Threshold, Thresholds, whole_steps

VARIANT = Variant("small", 10, 50, 3.0, 20.0, ((64, 64),), ("ddim",), 22, weights="s")
VARIANTS = {"small": VARIANT, "large": replace(VARIANT, name="large", weights="l")}
DEPLOYMENT = Deployment("two", VARIANTS, small="small", large="large", embedder="e")


def descending(low: float, high: float) -> st.SearchStrategy[list[float]]:
    numbers = st.lists(st.floats(low, high), unique=True, min_size=5, max_size=5)
    return numbers.map(lambda values: sorted(values, reverse=True))


THRESHOLDS = st.builds(
    lambda similarities, skips: Thresholds.of(*zip(similarities, skips, strict=True)),
    descending(-1, 1),
    descending(0.001, 1),
)


# Thresholds ---------------------------------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(THRESHOLDS, st.floats(-1, 1), st.floats(-1, 1), st.integers(1, 200))
def test_more_similar_is_never_less_to_skip(table: Thresholds, one: float, other: float, steps: int) -> None:
    low, high = sorted((one, other))
    assert 0 <= table.steps(low, steps) <= table.steps(high, steps) < steps
    assert (table.skip(low) > 0) == (low >= table.reach)


def test_thresholds_are_inclusive() -> None:
    table = Thresholds.of((0.9, 0.5), (0.8, 0.1))
    assert [table.skip(s) for s in (1.0, 0.9, math.nextafter(0.9, 0), 0.8, math.nextafter(0.8, 0))] == [
        0.5,
        0.5,
        0.1,
        0.1,
        0.0,
    ]


def test_nothing_is_similar_enough_for_no_thresholds() -> None:
    assert NEVER.skip(1.0) == 0
    assert NEVER.reach == math.inf
    assert Thresholds.of((0.5, 0.5)).skip(math.nan) == 0


def test_shares_of_steps_are_not_lost_to_floating_point() -> None:
    assert [whole_steps(k / 50, 50) for k in range(50)] == list(range(50))
    assert whole_steps(1.0, 25) == 24


@pytest.mark.parametrize("rows", [[(0.5, 0.1), (0.6, 0.2)], [(0.6, 0.1), (0.5, 0.2)], [(0.6, 0.1), (0.6, 0.05)]])
def test_rows_must_fall(rows: list[tuple[float, float]]) -> None:
    with pytest.raises(InvalidArgument, match="falling"):
        Thresholds.of(*rows)


@pytest.mark.parametrize(
    ("similarity", "skip"), [(1.1, 0.5), (math.nan, 0.5), (0.5, -0.1), (0.5, 1.1), (0.5, math.nan)]
)
def test_a_row_is_a_cosine_and_a_share(similarity: float, skip: float) -> None:
    with pytest.raises(InvalidArgument):
        Threshold(similarity, skip)


# The file -----------------------------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(THRESHOLDS, THRESHOLDS, st.floats(0.01, 1))
def test_a_calibration_comes_back_from_its_file(
    tmp_path_factory: pytest.TempPathFactory, modm: Thresholds, nirvana: Thresholds, alpha: float
) -> None:
    written = replace(CALIBRATION, modm=modm, nirvana=nirvana, alpha=alpha, measured_on="two cores")
    folder = tmp_path_factory.mktemp("version")
    assert written.save(folder) == folder / FILE_NAME
    assert Calibration.load(folder) == written
    assert [path.name for path in folder.iterdir()] == [FILE_NAME]


def test_no_file_is_no_calibration(tmp_path: Path) -> None:
    assert Calibration.load(tmp_path) is None


@pytest.mark.parametrize(
    "change",
    [
        {"alpha": 0},
        {"alpha": 1.5},
        {"alpha": "much"},
        {"modm": [{"similarity": 2, "skip": 0.5}]},
        {"modm": [{"similarity": 0.5}]},
        {"nirvana": "all"},
        {"modm": [{"similarity": 0.5, "skip": 0.1}, {"similarity": 0.6, "skip": 0.2}]},
        {"clip": "ViT-L/14"},
    ],
)
def test_a_file_that_makes_no_sense_is_refused_and_named(tmp_path: Path, change: dict[str, object]) -> None:
    (tmp_path / FILE_NAME).write_text(json.dumps({**json.loads(CALIBRATION.to_json()), **change}))
    with pytest.raises(InvalidArgument, match=FILE_NAME):
        Calibration.load(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"alpha": 0.9}', "\x00"])
def test_a_file_that_is_broken_is_refused_and_named(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE_NAME).write_text(text)
    with pytest.raises(InvalidArgument, match=f"{FILE_NAME}.*underpaint calibrate"):
        Calibration.load(tmp_path)


# What it speaks for -------------------------------------------------------------------------------------------------


def test_it_speaks_for_the_weights_that_it_was_measured_on() -> None:
    assert CALIBRATION.misfit(DEPLOYMENT) == ""
    assert problem(CALIBRATION, DEPLOYMENT) == ""


@pytest.mark.parametrize("part", ["embedder", "small", "large"])
def test_other_weights_are_named(part: str) -> None:
    message = replace(CALIBRATION, **{part: "other"}).misfit(DEPLOYMENT)
    assert message.startswith(f"{FILE_NAME} was measured with another {part}")
    assert "other" in message


def test_a_deployment_without_hashes_is_not_calibrated() -> None:
    nameless = replace(CALIBRATION, small="")
    variants = {**VARIANTS, "small": replace(VARIANT, weights="")}
    assert "small variant" in nameless.misfit(replace(DEPLOYMENT, variants=variants))


def test_the_reasons_why_nothing_is_read_from_the_cache() -> None:
    assert problem(None, DEPLOYMENT) == f"there is no {FILE_NAME}; run `underpaint calibrate`"
    assert problem(CALIBRATION, replace(DEPLOYMENT, embedder="")) == "the deployment has no embedders"
