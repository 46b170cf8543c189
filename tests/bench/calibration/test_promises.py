"""What thresholds would do in service, where that can be told without reckoning."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from underpaint.bench.calibration.pairs import Measurements, Pair, Requests
from underpaint.bench.calibration.promises import Misses, Rules, Service, best_table, cheapest, promise
from underpaint.policies.thresholds import NEVER, Threshold, Thresholds

SKIPS = (0.2, 0.8)


def service(*similarities: tuple[int, int, float], count: int, refines: bool = True) -> Service:
    """Requests that are alike as told (later, earlier, similarity), and otherwise not at all. Skipping a fifth costs a
    tenth of what is missing of similarity, skipping four all of it. Every other request is hard for the small variant,
    which fails at it by a tenth, and the router knows; at one in four of them the discriminator sees it, too."""
    to_large = np.full((count, count), -1.0, np.float32)
    for later, earlier, similarity in similarities:
        to_large[later, earlier] = similarity
    bins = np.linspace(0.5, 1.0, 11).tolist()
    gains = {0.2: [0.1 * (at - 1) for at in bins], 0.8: [at - 1 for at in bins]}
    hard = np.arange(count) % 2 == 1
    seen = np.where(np.arange(count) % 8 == 7, 0.1, 0.9).tolist()
    requests = Requests([1.0] * count, (1 - 0.1 * hard).tolist(), [0.9] * count, seen, (0.2 + 0.6 * hard).tolist())
    return Service(to_large, to_large, bins, [10] * len(bins), gains, requests, refines, run_cost=0.3)


def test_without_thresholds_everything_is_painted_in_full() -> None:
    made = promise(service(count=5), Rules(NEVER))
    assert (made.hit_rate, made.easy, made.quality, made.trace_quality, made.cost) == (0, 0, None, 1, 1)


def test_a_hit_costs_what_it_leaves_to_be_run() -> None:
    made = promise(service((1, 0, 0.9), count=2), Rules(Thresholds.of((0.89, 0.8))))
    assert (made.hit_rate, made.steps_skipped) == (0.5, pytest.approx(0.4))
    assert made.quality == pytest.approx(0.9) and made.trace_quality == pytest.approx(0.95)
    assert made.cost == pytest.approx((1 + 0.3 * 0.2) / 2)


def test_what_is_easy_is_painted_by_the_small_variant_and_found_as_that() -> None:
    """The second is hard, and the small variant fails; the third asks for the same, and gets no better."""
    alike = service((2, 1, 1.0), count=3)
    made = promise(alike, Rules(Thresholds.of((0.89, 0.8)), hard=0.9))
    assert (made.easy, made.hit_rate) == (pytest.approx(2 / 3), pytest.approx(1 / 3))
    assert made.trace_quality == pytest.approx(1 - 2 * 0.1 / 3)
    assert made.cost == pytest.approx((2 * 0.3 + 0.3 * 0.2) / 3)
    spared = promise(alike, Rules(Thresholds.of((0.89, 0.8)), hard=0.5))
    assert (spared.easy, spared.trace_quality) == (pytest.approx(1 / 3), 1)
    assert spared.cost == pytest.approx((0.3 + 1 + 0.3 * 0.2) / 3)


def test_what_the_discriminator_calls_poor_is_not_kept() -> None:
    misses = service(count=8).misses(hard=0.9)
    assert misses.easy.all() and misses.costs.tolist() == [0.3] * 8
    assert misses.gains == pytest.approx([0, -0.1] * 4)
    assert misses.kept.tolist() == [True] * 7 + [False]
    assert service(count=8).misses(hard=0.5).kept.all()


def test_of_the_large_variant_s_pictures_the_poor_ones_are_not_kept() -> None:
    requests = Requests([1.0, 0.2], [1.0, 1.0], [0.9, 0.1], [0.9, 0.9], [0.5, 0.5])
    assert Misses.of(requests, None, 0.3).kept.tolist() == [True, False]
    assert Misses.of(replace(requests, full_confidence=[], small_confidence=[]), None, 0.3).kept.all()


def test_what_hardly_differs_from_its_source_is_not_found() -> None:
    """The third is like the second alone: which is there if it was painted by much."""
    alike = service((1, 0, 0.9), (2, 1, 0.95), count=3)
    assert promise(alike, Rules(Thresholds.of((0.89, 0.8)))).hit_rate == pytest.approx(1 / 3)
    assert promise(alike, Rules(Thresholds.of((0.89, 0.2)))).hit_rate == pytest.approx(2 / 3)


def test_a_system_without_a_small_variant_keeps_what_it_resumed() -> None:
    alike = service((1, 0, 0.9), (2, 1, 0.95), count=3, refines=False)
    assert promise(alike, Rules(Thresholds.of((0.89, 0.2)))).quality == pytest.approx(1 - (0.01 + 0.005) / 2)
    assert promise(alike, Rules(Thresholds.of((0.94, 0.8), (0.89, 0.2)))).quality == pytest.approx(
        1 - (0.01 + 0.06) / 2
    )


# The cheapest table -------------------------------------------------------------------------------------------------


def tables(bins: Service) -> list[Thresholds]:
    """All there are: for each bin a skip that does not rise on the way down."""
    skips = [0.8, 0.2, None]
    made = []
    for cuts in itertools.combinations_with_replacement(range(len(bins.similarities), -1, -1), 2):
        rows, above = [], len(bins.similarities)
        for skip, cut in zip(skips, cuts, strict=False):
            if cut < above and skip is not None:
                rows.append(Threshold(round(bins.similarities[cut] - 1e-4, 6), skip))
            above = cut
        made.append(Thresholds(tuple(rows)))
    return made


def cost(bins: Service, table: Thresholds, weight: float, hard: float | None) -> float:
    misses = bins.misses(hard)
    total = 0.005 * sum(bins.pairs) * len(table.rows)
    for place, (similarity, pairs) in enumerate(zip(bins.similarities, bins.pairs, strict=True)):
        row = table.row(similarity)
        if row is None:
            total += pairs * (misses.costs.mean() - weight * misses.gains.mean())
        else:
            lasting = 4 if row.skip == 0.8 else 1  # what is taken over is so for all who come after
            total += pairs * (0.3 * (1 - row.skip) - weight * lasting * bins.gains[row.skip][place])
    return float(total)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(st.integers(1, 30), st.floats(-1, 0.1), st.floats(-1, 0.1)), min_size=1, max_size=5),
    st.sampled_from([None, 0.5, 0.9]),
    st.floats(0.1, 100),
)
def test_no_table_is_better_than_the_best(
    rows: list[tuple[int, float, float]], hard: float | None, weight: float
) -> None:
    """By trying all of them."""
    bins = replace(
        service(count=8),
        similarities=np.linspace(0.5, 0.9, len(rows)).tolist(),
        pairs=[row[0] for row in rows],
        gains={0.2: sorted(row[1] for row in rows), 0.8: sorted(row[2] for row in rows)},
    )
    least = min(cost(bins, table, weight, hard) for table in tables(bins))
    # Going over to doing nothing is a step like any other, though no row.
    found = cost(bins, best_table(bins, weight, hard), weight, hard)
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
    found, strict = (promise(own, cheapest(own, each)) for each in (alpha, min(1.0, alpha + 0.02)))
    assert found.trace_quality >= alpha and strict.trace_quality >= min(1.0, alpha + 0.02)
    assert found.cost <= strict.cost <= 1


def test_the_allowed_loss_is_spent_where_it_saves_most() -> None:
    """Repeats skip nearly everything for nothing; the small variant paints what is easy; edits are not reused."""
    own = workload_like(3)
    steep = {0.2: [10 * (at - 1) for at in own.similarities], 0.8: [10 * (at - 1) for at in own.similarities]}
    rules = cheapest(replace(own, gains=steep), 0.99)
    assert [row.skip for row in rules.table.rows] == [0.8]
    assert rules.hard is not None and 0.2 < rules.hard <= 0.8 and promise(replace(own, gains=steep), rules).easy > 0.3


def test_where_there_are_no_scores_the_large_variant_paints_whatever_is_new() -> None:
    own = workload_like(3)
    without = replace(own, requests=Requests(own.requests.full, own.requests.small))
    assert cheapest(without, 0.9).hard is None and cheapest(replace(own, refines=False), 0.9).hard is None
    assert promise(own, cheapest(own, 0.9)).cost < promise(without, cheapest(without, 0.9)).cost


def test_nobody_is_given_what_he_did_not_ask_for() -> None:
    """However much the others afford."""
    own = workload_like(3)
    wrong = {skip: [-0.5] * (len(own.similarities) - 1) + [0.0] for skip in SKIPS}
    assert cheapest(replace(own, gains=wrong, refines=False), 0.5).table.reach > 0.99


# From measurements --------------------------------------------------------------------------------------------------


def test_measurements_become_a_service() -> None:
    random = np.random.default_rng(0)
    pairs = tuple(Pair(float(s), 0.9, {0.5: 0.9 - 0.4 * (1 - s)}) for s in random.uniform(0.5, 1, 200))
    text, large, small = ([[1.0, 0.0], [0.0, 1.0]], [[0.6, 0.8], [1.0, 0.0]], [[0.0, 1.0], [0.8, 0.6]])
    embeddings = {"text": text, "large": large, "small": small}
    requests = Requests([1.0, 0.8], [0.7, 0.9])
    by_system, cost = (
        {"modm": pairs, "modm_text": pairs, "nirvana": pairs},
        {"modm": 0.3, "modm_text": 0.3, "nirvana": 1.0},
    )
    measured = Measurements("e", "s", "l", by_system, requests, cost, embeddings)
    by_picture, by_text = Service.of(measured, "modm"), Service.of(measured, "modm_text")
    assert by_picture.to_large == pytest.approx(np.array([[0.6, 1.0], [0.8, 0.0]]))
    assert by_picture.to_small == pytest.approx(np.array([[0.0, 0.8], [1.0, 0.6]]))
    assert (by_text.to_large == np.eye(2)).all() and (by_text.to_small == np.eye(2)).all()
    assert by_text.full == pytest.approx(0.9) and by_text.refines and not Service.of(measured, "nirvana").refines
    assert by_text.gain(0.5, 0.75) == pytest.approx(-0.1, abs=0.02)
    assert by_text.gain(0.5, 1.0) == pytest.approx(0.0, abs=0.01)


def test_too_few_pairs_never_hit() -> None:
    pairs = {"modm": (Pair(0.9, 1.0, {0.5: 1.0}),)}
    one = {name: [[1.0]] for name in ("text", "large", "small")}
    measured = Measurements("e", "s", "l", pairs, Requests([1.0], [1.0]), {"modm": 0.3}, one)
    assert cheapest(Service.of(measured, "modm"), 0.9) == Rules(NEVER)
