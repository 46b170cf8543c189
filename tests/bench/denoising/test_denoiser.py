"""The benchmark of the denoiser with a fake UNet and a fake server: what is measured, and what is made of it."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from underpaint.bench.common.machine import Machine
from underpaint.bench.common.report import write_json
from underpaint.bench.demand.load import Cycle
from underpaint.bench.denoising.denoiser import (
    CONCURRENCY,
    Job,
    Measured,
    Pace,
    Round,
    measure,
    measurements,
    shortlist,
    summarise,
)
from underpaint.bench.denoising.report import text, to_json
from underpaint.bench.denoising.unet import Setup, candidate_setups
from underpaint.errors import Internal

JOB = Job("tiny-l", num_inference_steps=25, guidance_scale=3.0)
BEST, LONE, OTHER = Setup(1, 2, 32), Setup(1, 2, 2), Setup(2, 1, 16)
QUICK = Pace(rounds=2, served_s=0.0, ceiling_s=0.0, search_s=0.0, ramp_s=0.0)


class FakeUNet:
    """Rows a second by setup; remembers what it was asked."""

    def __init__(self, rows_per_s: dict[Setup, float]) -> None:
        self._rows_per_s = rows_per_s
        self.asked: list[Setup] = []

    def rows_per_s(self, setup: Setup, seconds: float) -> float:
        self.asked.append(setup)
        return self._rows_per_s[setup]


def cycles(workers: int, period_s: float) -> list[Cycle]:
    return [Cycle(worker, i * period_s, (i + 1) * period_s) for worker in range(workers) for i in range(3)]


def a_round(ceiling: float, many: float, single: float) -> Round:
    """Images a second of each."""
    by_setup = {BEST: ceiling, LONE: ceiling / 2, OTHER: ceiling * 0.9}
    return Round(by_setup, cycles(CONCURRENCY, CONCURRENCY / many), cycles(1, 1 / single))


def test_an_image_costs_two_rows_a_step_under_guidance() -> None:
    assert JOB.rows_per_image == 50
    assert Job("x", 25, 1.0).rows_per_image == 25


def test_efficiency_is_the_median_of_paired_ratios() -> None:
    """A machine that is twice as slow in one round is so for both sides of that round."""
    rounds = [a_round(10.0, 9.0, 7.0), a_round(5.0, 4.6, 3.5), a_round(10.0, 9.4, 7.0)]
    summary = summarise(Measured(JOB, {}, rounds))
    assert summary.efficiency == pytest.approx(0.92, abs=1e-4)
    assert summary.efficiency_single == pytest.approx(0.7, abs=1e-4)
    assert summary.efficiency_single_of_lone == pytest.approx(1.4, abs=1e-4)
    assert summary.images_per_s == pytest.approx(9.0) and summary.ceiling_images_per_s == pytest.approx(10.0)
    assert summary.ceiling_setup == summary.strongest_setup == BEST
    assert summary.efficiency_of_strongest == summary.efficiency


def test_sessions_side_by_side_may_be_stronger_than_the_ceiling() -> None:
    by_setup = {BEST: 8.0, LONE: 4.0, OTHER: 10.0}
    only = Round(by_setup, cycles(CONCURRENCY, CONCURRENCY / 8.0), cycles(1, 1 / 4.0))
    summary = summarise(Measured(JOB, {}, [only]))
    assert (summary.ceiling_setup, summary.strongest_setup) == (BEST, OTHER)
    assert (summary.efficiency, summary.efficiency_of_strongest) == pytest.approx((1.0, 0.8))
    assert (summary.efficiency_single, summary.efficiency_single_of_strongest) == pytest.approx((0.5, 0.4))


def test_the_ceiling_is_the_setup_that_is_strongest_in_the_rounds() -> None:
    """Not the one that was lucky in the search."""
    assert summarise(Measured(JOB, {OTHER: 99.0, BEST: 1.0}, [a_round(10.0, 9.0, 7.0)])).ceiling_setup == BEST


def test_a_ceiling_without_the_lone_rows_is_a_defect() -> None:
    only = Round({BEST: 10.0}, cycles(CONCURRENCY, 1.0), cycles(1, 1.0))
    with pytest.raises(Internal, match="lone"):
        summarise(Measured(JOB, {}, [only]))


def test_the_shortlist_keeps_the_strongest_and_a_lone_one() -> None:
    search = {Setup(1, 2, rows): float(rows) for rows in (1, 2, 8, 16, 24, 32)}
    assert shortlist(search, JOB) == [Setup(1, 2, 32), Setup(1, 2, 24), LONE]
    side_by_side = {Setup(2, 1, rows): rows + 0.5 for rows in (8, 16, 32)}
    assert shortlist(search | side_by_side, JOB) == [
        Setup(1, 2, 32),
        Setup(1, 2, 24),
        Setup(2, 1, 32),
        LONE,
    ]


def test_measuring_alternates_and_pairs(tmp_path: Path) -> None:
    unet = FakeUNet({BEST: 500.0, LONE: 300.0, OTHER: 450.0})
    told: list[str] = []
    painted: list[int] = []

    def paint(number: int) -> None:
        painted.append(number)
        time.sleep(0.001)

    setups = [LONE, OTHER, BEST]
    measured = measure(JOB, paint, unet, setups, QUICK, told.append)
    assert unet.asked == [LONE, OTHER, BEST] + [BEST, LONE, OTHER] * 2 * QUICK.rounds
    assert measured.search[BEST] == pytest.approx(10.0)  # 500 rows a second over 25 steps of 2 rows
    served = [doing for doing in told if doing.startswith("generate")]
    assert served == ["generate, 16 at a time", "generate, 1 at a time"] * QUICK.rounds
    assert len(told) <= measurements(setups, QUICK)
    assert len({cycle.worker for cycle in measured.rounds[0].many}) == CONCURRENCY

    summary = summarise(measured)
    report = to_json(measured, summary, QUICK, Machine.here(0.01))
    write_json(report, tmp_path / "reports" / "f.json")
    read = json.loads((tmp_path / "reports" / "f.json").read_text())
    assert {"images_per_s", "ceiling_images_per_s", "efficiency", "efficiency_single"} <= set(read)
    assert read["ceiling_images_per_s"] == 10.0 and read["job"]["concurrency"] == 16
    assert read["machine"]["cores"] >= 1 and "numpy" in read["versions"]
    assert "efficiency" in text(measured, summary)


def test_candidates_use_all_cores_in_one_session_or_in_many() -> None:
    layouts = {(setup.sessions, setup.threads) for setup in candidate_setups(32, cores=4)}
    assert layouts == {(1, 4), (4, 1)}
    assert {setup.rows for setup in candidate_setups(32, cores=4)} >= {1, 2, 32}
    assert max(setup.rows for setup in candidate_setups(8, cores=2)) == 8
    assert {(setup.sessions, setup.threads) for setup in candidate_setups(8, cores=1)} == {(1, 1)}
