"""How late LoRAs may join: measured on a painter of whom everything is known."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

import numpy as np
import pytest

from underpaint.bench.calibration.lora_joins import Join, latest, measure
from underpaint.bench.demand.workload import WorkItem, workload
from underpaint.errors import InvalidArgument

ITEMS = list(islice(workload(0), 3))
KEPT = {"early": (200, 100, 20, 0), "late": (200, 200, 180, 0)}  # what is left of a LoRA that joins at each of 4 steps


def paint(item: WorkItem, lora: str | None, step: int) -> np.ndarray:
    return np.full((4, 4, 3), KEPT[lora][step] if lora else 0, np.uint8)


def judge(pictures: np.ndarray, items: Sequence[WorkItem]) -> float:
    assert pictures.dtype == np.uint8 and len(pictures) == len(items)
    return 0.5 + float(pictures.mean()) / 1000


def test_what_is_lost_is_a_share_of_what_loras_do() -> None:
    joins = measure(paint, judge, ITEMS, ["early", "late"], 4)
    assert [join.step for join in joins] == [0, 1, 2, 3, 4]
    assert [join.lost for join in joins] == pytest.approx([0, 100 / 400, 200 / 400, 1, 1])
    assert [join.accuracy for join in joins] == pytest.approx([0.7, 0.65, 0.6, 0.5, 0.5])
    assert [join.lost for join in measure(paint, judge, ITEMS, ["late"], 4)] == pytest.approx([0, 0, 0.1, 1, 1])


def test_the_latest_step_is_chosen_up_to_which_nothing_suffers() -> None:
    def joins(*pairs: tuple[float, float]) -> list[Join]:
        return [Join(step, 9, lost, accuracy) for step, (lost, accuracy) in enumerate(pairs)]

    assert latest(joins((0, 0.9), (0.05, 0.9), (0.09, 0.9), (0.3, 0.9)), keep=0.9).step == 2
    assert latest(joins((0, 0.9), (0.05, 0.8), (0.06, 0.9), (0.3, 0.9)), keep=0.9).step == 0, "accuracy suffers"
    assert latest(joins((0, 0.9), (0.2, 0.9), (0.05, 0.9)), keep=0.9).step == 0, "a lucky step after a bad one"
    assert latest(joins((0, 0.9), (0.2, 0.9), (0.3, 0.9)), keep=0.7).share == pytest.approx(2 / 9)


def test_without_loras_or_effect_nothing_can_be_measured() -> None:
    with pytest.raises(InvalidArgument, match="loras: got"):
        measure(paint, judge, ITEMS, [], 4)
    with pytest.raises(InvalidArgument, match="some that change the picture"):
        measure(lambda *_: np.zeros((4, 4, 3), np.uint8), judge, ITEMS, ["idle"], 2)
