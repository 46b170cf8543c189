"""Nirvana: the largest K that the similarity allows, that is still there, and that is worth its fetch."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import pytest

from tests.policies.examples import SETTINGS, a_match, found
from underpaint.evidence import Measured, Reuse, Space
from underpaint.policies import CachedLatents, Keep, Noise, Plan
from underpaint.policies.nirvana import PUBLISHED_SHARES, Nirvana, kept_steps
from underpaint.requests import GenerateRequest

NIRVANA = Nirvana()
FIFTY = GenerateRequest("a circle", num_inference_steps=50)
ALL_FIVE = (5, 10, 15, 20, 25)
LOG = Path(__file__).resolve().parents[3] / "shared" / "data" / "prompts" / "approx_cache_log_first_10000.csv"


@pytest.mark.parametrize(
    ("similarity", "step"), [(0.96, 25), (0.94, 20), (0.89, 15), (0.8, 10), (0.7, 5), (0.65, 5), (0.649, 0)]
)
def test_the_published_table(similarity: float, step: int) -> None:
    match = a_match(similarity, steps=ALL_FIVE)
    expected = CachedLatents(match, step) if step else Noise()
    assert NIRVANA.plan(FIFTY, found(match), SETTINGS) == Plan("tiny-l", expected)


@pytest.mark.skipif(not LOG.is_file(), reason=f"the published log is not at {LOG}")
def test_the_authors_log_gives_the_hits_and_savings_that_they_report() -> None:
    """Similarities of 10,000 lookups in arrival order, from the authors' artifact, and every K still there."""
    with LOG.open(newline="", encoding="utf-8") as lines:
        similarities = [float(row["Scores"]) for row in csv.DictReader(lines)]
    assert len(similarities) == 10_000
    plans = [NIRVANA.plan(FIFTY, found(a_match(s, steps=ALL_FIVE)), SETTINGS) for s in similarities]
    skipped = [plan.start.step for plan in plans if isinstance(plan.start, CachedLatents)]
    assert len(skipped) / len(plans) == pytest.approx(0.752, abs=0.0005)
    assert sum(skipped) / 50 / len(plans) == pytest.approx(0.144, abs=0.0005)


@pytest.mark.parametrize(
    ("similarity", "left", "step"),
    [(0.96, (5, 10), 10), (0.96, (20,), 20), (0.8, (15, 20, 25), 0), (0.8, (5, 15), 5), (0.99, (), 0)],
)
def test_of_what_survives_the_largest_that_is_allowed(similarity: float, left: tuple[int, ...], step: int) -> None:
    match = a_match(similarity, steps=left)
    expected = CachedLatents(match, step) if step else Noise()
    assert NIRVANA.plan(FIFTY, found(match), SETTINGS).start == expected


def test_a_less_similar_prompt_may_have_more_left() -> None:
    worn, fresh = a_match(0.97, steps=(5,)), a_match(0.91, entry_id=2, steps=ALL_FIVE)
    assert NIRVANA.plan(FIFTY, found(worn, fresh), SETTINGS).start == CachedLatents(fresh, 20)


def test_among_equals_the_most_similar_prompt() -> None:
    near, far = a_match(0.99, steps=ALL_FIVE), a_match(0.96, entry_id=2, steps=ALL_FIVE)
    assert NIRVANA.plan(FIFTY, found(near, far), SETTINGS).start == CachedLatents(near, 25)


@pytest.mark.parametrize(
    ("step_ms", "fetch_ms", "hit"),
    [(10.0, 99.0, True), (10.0, 101.0, False), (None, 101.0, True), (10.0, None, True)],
)
def test_a_fetch_must_be_worth_it(step_ms: float | None, fetch_ms: float | None, hit: bool) -> None:
    measured = Measured({"tiny-s": 1e-3} | ({"tiny-l": step_ms} if step_ms else {}), fetch_ms)
    evidence = found(a_match(0.8, steps=ALL_FIVE), measured=measured)  # allows 10 steps
    assert isinstance(NIRVANA.plan(FIFTY, evidence, SETTINGS).start, CachedLatents) == hit


def test_steps_are_scaled_to_the_large_variant() -> None:
    match = a_match(0.96, steps=kept_steps(25))
    assert NIRVANA.plan(GenerateRequest("a circle"), found(match), SETTINGS).start == CachedLatents(match, 12)


@pytest.mark.parametrize(
    ("steps", "kept"),
    [
        (50, (5, 10, 15, 20, 25, 35, 45)),
        (25, (2, 5, 7, 10, 12, 17, 22)),
        (9, (1, 2, 3, 4, 6, 8)),
        (4, (1, 2, 3)),
        (2, (1,)),
        (1, ()),
    ],
)
def test_the_ks_of_a_run(steps: int, kept: tuple[int, ...]) -> None:
    assert kept_steps(steps) == kept


def test_the_published_ks_are_among_them() -> None:
    assert kept_steps(50, PUBLISHED_SHARES) == ALL_FIVE == kept_steps(50)[:5]


@pytest.mark.parametrize(("step", "kept"), [(5, (10, 15, 20, 25, 35, 45)), (25, (35, 45)), (26, None), (45, None)])
def test_of_what_was_resumed_the_rest_is_kept_unless_it_hardly_differs(step: int, kept: tuple[int, ...] | None) -> None:
    plan = Plan("tiny-l", CachedLatents(a_match(0.9), step))
    assert NIRVANA.keep(FIFTY, plan, SETTINGS) == (kept and Keep(kept))


def test_whole_trajectories_are_kept() -> None:
    assert NIRVANA.keep(FIFTY, Plan("tiny-l", Noise()), SETTINGS) == Keep(kept_steps(50))
    assert NIRVANA.keep(GenerateRequest("a circle"), Plan("other", Noise()), SETTINGS) == Keep(kept_steps(40))


def test_what_lacks_its_beginning_serves_those_who_do_not_need_it() -> None:
    rest, whole = a_match(0.94, steps=(10, 15)), a_match(0.66, entry_id=2, steps=kept_steps(50))
    assert NIRVANA.plan(FIFTY, found(rest, whole), SETTINGS).start == CachedLatents(rest, 15)
    worse = replace(rest, similarity=0.7)
    assert NIRVANA.plan(FIFTY, found(worse, whole), SETTINGS).start == CachedLatents(whole, 5)


def test_prompts_are_compared_with_prompts() -> None:
    query = NIRVANA.needs.matches
    assert query is not None
    assert (query.space, query.reuse, query.predicted) == (Space.TEXT, Reuse.LATENTS, True)
