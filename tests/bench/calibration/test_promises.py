"""What thresholds would do in service, where that can be told without reckoning."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from underpaint.bench.calibration.pairs import Measurements, Pair
from underpaint.bench.calibration.promises import Service, best_table, promise, thresholds_over_requests, truncated
from underpaint.policies.thresholds import NEVER, Threshold, Thresholds

SKIPS = (0.2, 0.8)


def service(*similarities: tuple[int, int, float], count: int, small: float | None = -0.04) -> Service:
    """Requests that are alike as told (later, earlier, similarity), and otherwise not at all. Skipping a fifth costs a
    tenth of what is missing of similarity, skipping four all of it."""
    to_large = np.full((count, count), -1.0, np.float32)
    for later, earlier, similarity in similarities:
        to_large[later, earlier] = similarity
    bins = np.linspace(0.5, 1.0, 11).tolist()
    gains = {0.2: [0.1 * (at - 1) for at in bins], 0.8: [at - 1 for at in bins]}
    return Service(to_large, to_large, bins, [10] * len(bins), gains, small, full=1.0, run_cost=0.3)


def test_without_thresholds_everything_is_painted_in_full() -> None:
    made = promise(service(count=5), NEVER)
    assert (made.hit_rate, made.near, made.quality, made.trace_quality, made.cost) == (0, 0, None, 1, 1)


def test_a_hit_costs_what_it_leaves_to_be_run() -> None:
    made = promise(service((1, 0, 0.9), count=2), Thresholds.of((0.89, 0.8)))
    assert (made.hit_rate, made.steps_skipped) == (0.5, pytest.approx(0.4))
    assert made.quality == pytest.approx(0.9) and made.trace_quality == pytest.approx(0.95)
    assert made.cost == pytest.approx((1 + 0.3 * 0.2) / 2)


def test_what_is_near_is_painted_by_the_small_variant_and_found_as_that() -> None:
    """The third asks for what the second did, which the small variant painted from noise: it is no better than that."""
    made = promise(service((1, 0, 0.6), (2, 1, 1.0), count=3), Thresholds.of((0.89, 0.8), (0.5, 0.0)))
    assert (made.near, made.hit_rate) == (pytest.approx(1 / 3), pytest.approx(1 / 3))
    assert made.trace_quality == pytest.approx(1 - 2 * 0.04 / 3)
    assert made.cost == pytest.approx((1 + 0.3 + 0.3 * 0.2) / 3)


def test_what_hardly_differs_from_its_source_is_not_found() -> None:
    """The third is like the second alone: which is there if it was painted by much."""
    alike = service((1, 0, 0.9), (2, 1, 0.95), count=3)
    assert promise(alike, Thresholds.of((0.89, 0.8))).hit_rate == pytest.approx(1 / 3)
    assert promise(alike, Thresholds.of((0.89, 0.2))).hit_rate == pytest.approx(2 / 3)


def test_a_system_without_a_small_variant_keeps_what_it_resumed() -> None:
    alike = service((1, 0, 0.9), (2, 1, 0.95), count=3, small=None)
    assert promise(alike, Thresholds.of((0.89, 0.2))).quality == pytest.approx(1 - (0.01 + 0.005) / 2)
    assert promise(alike, Thresholds.of((0.94, 0.8), (0.89, 0.2))).quality == pytest.approx(1 - (0.01 + 0.06) / 2)


# The cheapest table -------------------------------------------------------------------------------------------------


def tables(bins: Service) -> list[Thresholds]:
    """All there are: for each bin a skip that does not rise on the way down."""
    skips = [0.8, 0.2, 0.0, None]
    made = []
    for cuts in itertools.combinations_with_replacement(range(len(bins.similarities), -1, -1), 3):
        rows, above = [], len(bins.similarities)
        for skip, cut in zip(skips, cuts, strict=False):
            if cut < above and skip is not None:
                rows.append(Threshold(round(bins.similarities[cut] - 1e-4, 6), skip))
            above = cut
        made.append(Thresholds(tuple(rows)))
    return made


def cost(bins: Service, table: Thresholds, weight: float) -> float:
    total = 0.005 * sum(bins.pairs) * len(table.rows)
    for place, (similarity, pairs) in enumerate(zip(bins.similarities, bins.pairs, strict=True)):
        row = table.row(similarity)
        if row is None:
            total += pairs
        else:
            gain = bins.gains[row.skip][place] if row.skip else bins.small or 0.0
            lasting = 4 if row.skip == 0.8 else 1  # what is taken over is so for all who come after
            total += pairs * (0.3 * (1 - row.skip) - weight * lasting * gain)
    return total


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(st.integers(1, 30), st.floats(-1, 0.1), st.floats(-1, 0.1)), min_size=1, max_size=5),
    st.floats(-0.2, 0.0),
    st.floats(0.1, 100),
)
def test_no_table_is_better_than_the_best(rows: list[tuple[int, float, float]], small: float, weight: float) -> None:
    """By trying all of them."""
    bins = replace(
        service(count=1, small=small),
        similarities=np.linspace(0.5, 0.9, len(rows)).tolist(),
        pairs=[row[0] for row in rows],
        gains={0.2: sorted(row[1] for row in rows), 0.8: sorted(row[2] for row in rows)},
    )
    least = min(cost(bins, table, weight) for table in tables(bins))
    # Going over to doing nothing is a step like any other, though no row.
    found = cost(bins, best_table(bins, weight), weight)
    assert found <= least + 0.005 * sum(bins.pairs) + 1e-9


def workload_like(seed: int, count: int = 150) -> Service:
    """Requests around a few themes, so that some find what is like them."""
    random = np.random.default_rng(seed)
    rows = random.normal(size=(12, 6))[random.integers(0, 12, count)] + 0.15 * random.normal(size=(count, 6))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    similarities = (rows @ rows.T).astype(np.float32)
    return replace(service(count=count), to_large=similarities, to_small=similarities)


@settings(deadline=None, max_examples=8)
@given(st.integers(0, 1000), st.floats(0.9, 1.0))
def test_the_promise_is_kept_and_more_quality_never_costs_less(seed: int, alpha: float) -> None:
    own = workload_like(seed)
    found, strict = (promise(own, thresholds_over_requests(own, each)) for each in (alpha, min(1.0, alpha + 0.02)))
    assert found.trace_quality >= alpha and strict.trace_quality >= min(1.0, alpha + 0.02)
    assert found.cost <= strict.cost <= 1


def test_the_allowed_loss_is_spent_where_it_saves_most() -> None:
    """Repeats skip nearly everything for nothing; then what is near goes to the small variant; edits are not reused."""
    own = workload_like(3)
    steep = {0.2: [10 * (at - 1) for at in own.similarities], 0.8: [10 * (at - 1) for at in own.similarities]}
    table = thresholds_over_requests(replace(own, gains=steep), 0.95)
    assert [row.skip for row in table.rows] == [0.8, 0.0]


def test_nobody_is_given_what_he_did_not_ask_for() -> None:
    """However much the others afford."""
    own = workload_like(3)
    wrong = {skip: [-0.5] * (len(own.similarities) - 1) + [0.0] for skip in SKIPS}
    table = thresholds_over_requests(replace(own, gains=wrong, small=None), 0.5)
    assert table.reach > 0.99


def test_a_table_from_some_similarity_on() -> None:
    table = Thresholds.of((0.9, 0.6), (0.8, 0.4), (0.7, 0.0))
    assert truncated(table, 0.85) == Thresholds.of((0.9, 0.6), (0.85, 0.4))
    assert truncated(table, 0.9) == Thresholds.of((0.9, 0.6)) and truncated(table, 0.95) == Thresholds.of((0.95, 0.6))
    assert truncated(table, 0.75) == Thresholds.of((0.9, 0.6), (0.8, 0.4), (0.75, 0.0))
    assert truncated(table, 0.5) == table


# From measurements --------------------------------------------------------------------------------------------------


def test_measurements_become_a_service() -> None:
    random = np.random.default_rng(0)
    pairs = tuple(Pair(float(s), 0.9, {0.0: 0.8, 0.5: 0.9 - 0.4 * (1 - s)}) for s in random.uniform(0.5, 1, 200))
    text, large, small = ([[1.0, 0.0], [0.0, 1.0]], [[0.6, 0.8], [1.0, 0.0]], [[0.0, 1.0], [0.8, 0.6]])
    embeddings = {"text": text, "large": large, "small": small}
    measured = Measurements(
        "e", "s", "l", {"modm": pairs, "modm_text": pairs}, {"modm": 0.3, "modm_text": 0.3}, embeddings
    )
    by_picture, by_text = Service.of(measured, "modm"), Service.of(measured, "modm_text")
    assert by_picture.to_large == pytest.approx(np.array([[0.6, 1.0], [0.8, 0.0]]))
    assert by_picture.to_small == pytest.approx(np.array([[0.0, 0.8], [1.0, 0.6]]))
    assert (by_text.to_large == np.eye(2)).all() and (by_text.to_small == np.eye(2)).all()
    assert by_text.small == pytest.approx(-0.1) and by_text.full == pytest.approx(0.9)
    half, near = Threshold(0.5, 0.5), Threshold(0.5, 0.0)
    assert by_text.gain(half, 0.75) == pytest.approx(-0.1, abs=0.02)
    assert by_text.gain(half, 1.0) == pytest.approx(0.0, abs=0.01)
    assert by_text.gain(near, 1.0) == pytest.approx(-0.1)


def test_too_few_pairs_never_hit() -> None:
    pairs = {"modm": (Pair(0.9, 1.0, {0.0: 1.0, 0.5: 1.0}),)}
    one = {name: [[1.0]] for name in ("text", "large", "small")}
    measured = Measurements("e", "s", "l", pairs, {"modm": 0.3}, one)
    assert thresholds_over_requests(Service.of(measured, "modm"), 0.9) == NEVER
