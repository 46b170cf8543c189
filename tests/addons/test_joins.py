"""When LoRAs join that were not there in time."""

from __future__ import annotations

from pathlib import Path

import pytest

from underpaint.addons.joins import FILE_NAME, UNCALIBRATED, JoinRule
from underpaint.errors import InvalidArgument


def test_what_is_in_memory_joins_at_once_and_the_rest_after_its_share() -> None:
    rule = JoinRule(0.2)
    assert [rule.step(0, steps, resident=False) for steps in (9, 10, 50)] == [2, 2, 10]
    assert rule.step(0, 10, resident=True) == 0
    assert rule.step(4, 10, resident=True) == rule.step(4, 10, resident=False) == 4, "it begins after that"
    for step in range(10):
        assert JoinRule(step / 9).step(0, 9, resident=False) == step
    assert JoinRule(0).step(0, 50, resident=False) == 0


@pytest.mark.parametrize("resident", [True, False])
def test_a_step_that_is_asked_for_is_kept_to(resident: bool) -> None:
    assert JoinRule(0.2).step(0, 10, resident, wanted=7) == 7
    assert JoinRule(0.2).step(0, 10, resident, wanted=0) == 0
    assert JoinRule(0.2).step(3, 10, resident, wanted=1) == 3


def test_what_was_measured_holds_for_the_weights_that_it_was_measured_on(tmp_path: Path) -> None:
    assert JoinRule.load(tmp_path, "abc") == JoinRule(UNCALIBRATED)
    JoinRule(1 / 9, "abc").save(tmp_path)
    assert JoinRule.load(tmp_path, "abc").share == 1 / 9
    assert JoinRule.load(tmp_path, "other").share == UNCALIBRATED


@pytest.mark.parametrize("content", ["no JSON", '{"share": 2}', '{"shares": 0.1}', "[]"])
def test_a_file_that_is_none_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / FILE_NAME).write_text(content)
    with pytest.raises(InvalidArgument):
        JoinRule.load(tmp_path, "abc")
