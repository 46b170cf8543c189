"""What an operator decides and what was measured, from files that may be missing, change or make no sense."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.front_door.fake_server import CALIBRATION, DEPLOYMENT
from underpaint.errors import InvalidArgument
from underpaint.front_door.settings_files import FILE_NAME, SettingsFiles
from underpaint.policies import Settings


def files(folder: Path) -> SettingsFiles:
    return SettingsFiles(folder, DEPLOYMENT)


def decide(folder: Path, text: object) -> None:
    (folder / FILE_NAME).write_text(text if isinstance(text, str) else json.dumps(text))


def test_without_files_there_are_defaults_and_no_calibration(tmp_path: Path) -> None:
    settings = files(tmp_path).read()
    assert settings == Settings.of(DEPLOYMENT)
    assert (settings.small, settings.large, settings.default_steps) == ("little", "big", {"big": 25, "little": 10})
    assert settings.uncalibrated == "there is no calibration.json; run `underpaint calibrate`"


def test_what_was_measured_and_what_was_decided(tmp_path: Path) -> None:
    CALIBRATION.save(tmp_path)
    decide(tmp_path, {"small_share": 1, "keep_small": False, "max_generation": 2, "predict": False})
    settings = files(tmp_path).read()
    assert (settings.calibration, settings.uncalibrated) == (CALIBRATION, "")
    decided = (settings.small_share, settings.keep_small, settings.max_generation, settings.predict)
    assert decided == (1, False, 2, False)


def test_what_was_measured_elsewhere_is_left_out(tmp_path: Path) -> None:
    replace(CALIBRATION, embedder="another").save(tmp_path)
    settings = files(tmp_path).read()
    assert settings.calibration is None
    assert "another embedder" in settings.uncalibrated


def test_a_calibration_that_makes_no_sense_is_none(tmp_path: Path) -> None:
    (tmp_path / "calibration.json").write_text("{")
    settings = files(tmp_path).read()
    assert settings.calibration is None
    assert "calibration.json" in settings.uncalibrated


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        {"color": 1},
        {"small": "huge"},
        {"large": 3},
        {"policy": "magic"},
        {"keep_small": 1},
        {"max_generation": 2.5},
        {"small_share": 2},
        {"confidence_threshold": 1.2},
        {"router_threshold": "high"},
        {"defer_share": -0.1},
        {"unscored": "who knows"},
    ],
)
def test_decisions_that_make_no_sense_are_refused(tmp_path: Path, text: object) -> None:
    decide(tmp_path, text)
    with pytest.raises(InvalidArgument):
        files(tmp_path).read()


def test_thresholds_of_cascades_may_be_decided_as_cutoffs_or_as_shares(tmp_path: Path) -> None:
    decide(tmp_path, {"defer_share": 0.25, "hard_share": 0.25})
    settings = files(tmp_path).read()
    assert (settings.confidence_cutoff, settings.router_cutoff) == (0.25, 0.75)  # by the deployment's quantiles
    decide(tmp_path, {"confidence_threshold": 0.9, "router_threshold": 1})
    settings = files(tmp_path).read()
    assert (settings.confidence_cutoff, settings.router_cutoff) == (0.9, 1)


def test_changes_are_noticed_once(tmp_path: Path) -> None:
    following = files(tmp_path)
    assert not following.changed()
    CALIBRATION.save(tmp_path)
    assert following.changed()
    assert following.read().calibration == CALIBRATION
    assert not following.changed()
    decide(tmp_path, {"small_share": 0.25})
    assert following.changed()
    assert following.read().small_share == 0.25
    (tmp_path / FILE_NAME).unlink()
    assert following.changed()
    assert following.read().small_share == Settings.of(DEPLOYMENT).small_share
    assert not following.changed()


def test_what_is_decided_in_the_store_counts_for_every_door_and_wins(tmp_path: Path) -> None:
    doors, store = [tmp_path / "one", tmp_path / "other"], tmp_path / "store"
    for folder in (*doors, store):
        folder.mkdir()
    following = [SettingsFiles(door, DEPLOYMENT, store) for door in doors]
    decide(doors[0], {"small_share": 0.1, "max_generation": 2})
    decide(store, {"small_share": 0.2, "policy": "modm", "large": "little"})
    assert all(each.changed() for each in following)
    first, second = (each.read() for each in following)
    assert (first.small_share, first.max_generation, first.policy, first.large) == (0.2, 2, "modm", "little")
    assert (second.small_share, second.max_generation) == (0.2, Settings.of(DEPLOYMENT).max_generation)
