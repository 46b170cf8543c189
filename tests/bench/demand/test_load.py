"""The closed loop, and the rates that are read off it."""

from __future__ import annotations

import itertools
import time

import pytest

from underpaint.bench.demand.load import Cycle, Percentiles, Window, busy_rate_per_s, closed_loop, rate_per_s, work_off


def steady(worker: int, offset_s: float, period_s: float, count: int) -> list[Cycle]:
    starts = [offset_s + period_s * i for i in range(count)]
    return [Cycle(worker, start_s, start_s + period_s) for start_s in starts]


def test_the_rate_is_exact_whatever_the_phase() -> None:
    """Sixteen workers of 3 s a cycle make 16/3 a second, in step or not, however few cycles were seen."""
    in_step = [cycle for worker in range(16) for cycle in steady(worker, 0.0, 3.0, 2)]
    spread = [cycle for worker in range(16) for cycle in steady(worker, worker * 0.17, 3.0, 2 + worker % 2)]
    assert rate_per_s(in_step) == pytest.approx(16 / 3)
    assert rate_per_s(spread) == pytest.approx(16 / 3)


def test_the_rate_counts_the_time_between_cycles() -> None:
    assert rate_per_s([Cycle(0, 0.0, 1.0), Cycle(0, 3.0, 4.0)]) == pytest.approx(0.5)


def test_every_worker_is_counted_and_numbers_are_used_once() -> None:
    numbers: list[int] = []

    def work(number: int) -> None:
        numbers.append(number)
        time.sleep(0.002)

    cycles = closed_loop(work, 4, Window(measure_s=0.05, min_cycles=3))
    assert all(sum(cycle.worker == worker for cycle in cycles) >= 3 for worker in range(4))
    assert sorted(numbers) == list(range(len(numbers))) and len(cycles) <= len(numbers)


def test_the_window_stays_open_until_every_worker_has_its_cycles() -> None:
    cycles = closed_loop(lambda number: time.sleep(0.02), 3, Window(measure_s=0.0, min_cycles=2))
    assert {worker: sum(c.worker == worker for c in cycles) >= 2 for worker in range(3)} == dict.fromkeys(
        range(3), True
    )


def test_cycles_of_the_ramp_do_not_count() -> None:
    began_s = time.perf_counter()
    cycles = closed_loop(lambda number: time.sleep(0.002), 2, Window(measure_s=0.02, ramp_s=0.05))
    assert min(cycle.start_s for cycle in cycles) >= began_s + 0.05


def test_all_workers_work_at_once() -> None:
    at_work: set[int] = set()
    most = 0

    def work(number: int) -> None:
        nonlocal most
        at_work.add(number)
        most = max(most, len(at_work))
        time.sleep(0.02)
        at_work.discard(number)

    closed_loop(work, 4, Window(measure_s=0.1))
    assert most == 4


def test_a_failure_ends_the_loop() -> None:
    def work(number: int) -> None:
        if number == 5:
            raise ValueError("no more")
        time.sleep(0.001)

    with pytest.raises(ValueError, match="no more"):
        closed_loop(work, 3, Window(measure_s=60.0))


def test_percentiles_are_milliseconds() -> None:
    cycles = [Cycle(0, 0.0, ms / 1000) for ms in range(1, 101)]
    assert Percentiles.of(cycles) == Percentiles(p50=50.5, p90=90.1, p99=99.01, max=100.0)


def test_a_list_is_worked_off_in_order() -> None:
    began: list[int] = []

    def work(number: int) -> None:
        began.append(number)
        time.sleep(0.002)

    cycles = work_off(work, 20, 4)
    assert sorted(began) == list(range(20)) and began[:4] == [0, 1, 2, 3]
    assert len(cycles) == 20 and {cycle.worker for cycle in cycles} == {0, 1, 2, 3}
    assert all(a.start_s <= b.start_s for a, b in itertools.pairwise(cycles))


def test_a_failure_ends_the_list() -> None:
    def work(number: int) -> None:
        if number == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work_off(work, 10_000, 3)


def test_the_rate_of_a_list_leaves_out_its_end() -> None:
    """Sixteen workers of 3 s a cycle, and one cycle more, which runs alone."""
    cycles = [cycle for worker in range(16) for cycle in steady(worker, 0.0, 3.0, 4)] + [Cycle(0, 12.0, 13.0)]
    assert busy_rate_per_s(cycles) == pytest.approx(16 / 3)


def test_a_cycle_that_outlasts_the_others_counts_by_its_share() -> None:
    assert busy_rate_per_s([Cycle(0, 0.0, 4.0), Cycle(1, 0.0, 1.0), Cycle(1, 1.0, 2.0)]) == pytest.approx(2.5 / 2)
