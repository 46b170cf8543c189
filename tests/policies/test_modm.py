"""MoDM, and its control from a random source."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings

from tests.policies.examples import EVIDENCE, REQUESTS, SETTINGS, a_match, found
from underpaint.evidence import Evidence, Reuse, Space
from underpaint.policies import CachedImage, Keep, Noise, Plan, Settings
from underpaint.policies.modm import Modm
from underpaint.policies.modm_text import ModmText
from underpaint.policies.random_source import RandomSource
from underpaint.policies.thresholds import Thresholds
from underpaint.requests import GenerateRequest

MODM, RANDOM = Modm(), RandomSource()
FIFTY = GenerateRequest("a circle", num_inference_steps=50)


@pytest.mark.parametrize(
    ("similarity", "skip"),
    [(1.0, 30), (0.30, 30), (0.299, 25), (0.29, 25), (0.28, 15), (0.27, 10), (0.269, 5), (0.25, 5), (0.249, 0)],
)
def test_the_published_table(similarity: float, skip: int) -> None:
    match = a_match(similarity)
    expected = Plan("tiny-s", CachedImage(match, skip)) if skip else Plan("tiny-l", Noise())
    assert MODM.plan(FIFTY, found(match), SETTINGS) == expected


@pytest.mark.parametrize(("similarity", "skip"), [(0.30, 6), (0.29, 5), (0.28, 3), (0.27, 2), (0.25, 1)])
def test_steps_are_scaled_to_the_small_variant(similarity: float, skip: int) -> None:
    match = a_match(similarity)
    assert MODM.plan(GenerateRequest("a circle"), found(match), SETTINGS) == Plan("tiny-s", CachedImage(match, skip))


def test_a_run_too_short_to_skip_anything_is_a_miss() -> None:
    request = GenerateRequest("a circle", num_inference_steps=4)
    assert MODM.plan(request, found(a_match(0.26)), SETTINGS).start == Noise()


def test_it_is_the_most_similar_image_that_is_refined() -> None:
    best = a_match(0.4)
    assert MODM.plan(FIFTY, found(best, a_match(0.39, entry_id=2)), SETTINGS).start == CachedImage(best, 30)


def test_only_the_small_variant_refines() -> None:
    evidence = found(a_match(0.5))
    for variant in ("tiny-l", "other"):
        assert MODM.plan(GenerateRequest("a circle", variant=variant), evidence, SETTINGS) == Plan(variant, Noise())
    assert MODM.plan(GenerateRequest("a circle", variant="tiny-s"), evidence, SETTINGS).start != Noise()


def eased() -> Settings:
    """Settings that leave to the small variant what the router does not call hard."""
    assert SETTINGS.calibration is not None
    calibration = replace(SETTINGS.calibration, hard={"modm": 0.7})
    return replace(SETTINGS, calibration=calibration)


@pytest.mark.parametrize(
    ("similarity", "score", "plan"),
    [
        (0.3, None, Plan("tiny-s", CachedImage(a_match(0.3), 30))),
        (0.2, 0.69, Plan("tiny-s", Noise(easy=True))),
        (0.2, 0.7, Plan("tiny-l", Noise())),
        (0.2, None, Plan("tiny-l", Noise())),
    ],
)
@pytest.mark.parametrize("policy", [MODM, RANDOM])
def test_what_is_new_and_not_hard_is_left_to_the_small_variant(
    policy: Modm, similarity: float, score: float | None, plan: Plan
) -> None:
    match = a_match(similarity)
    evidence = replace(found(match, stranger=match), router_score=score)
    assert policy.plan(FIFTY, evidence, eased()) == plan
    assert policy.plan(replace(FIFTY, variant="tiny-l"), evidence, eased()) == Plan("tiny-l", Noise())
    assert policy.asks_router(FIFTY, evidence, eased()) == (plan.skipped == 0)
    assert not policy.asks_router(FIFTY, evidence, SETTINGS)


def test_what_nothing_at_all_was_found_for_may_be_easy_too() -> None:
    alone = Evidence(1, router_score=0.1)
    assert MODM.plan(FIFTY, alone, eased()) == Plan("tiny-s", Noise(easy=True))
    assert ModmText().plan(FIFTY, alone, eased()) == Plan("tiny-l", Noise())  # that was not measured


@pytest.mark.parametrize(
    "asked",
    [{"cache": "reproducible"}, {"variant": "tiny-s"}, {"lora": "palette"}, {"controlnet": "layout"}],
)
def test_what_the_caller_fixes_is_not_left_to_chance(asked: dict[str, str]) -> None:
    """Neither by what the router says today, nor by a variant that the add-ons were not made for."""
    images = {"control_image": np.zeros((1, 64, 64, 3), np.uint8)} if "controlnet" in asked else {}
    request = GenerateRequest("a circle", **asked, **images)  # type: ignore[arg-type]
    evidence = Evidence(1, router_score=0.1)
    assert not MODM.asks_router(request, evidence, eased())
    assert MODM.plan(request, evidence, eased()).start == Noise()


def test_what_is_easy_is_kept_as_it_comes_from_noise() -> None:
    easy = Plan("tiny-s", Noise(easy=True))
    assert MODM.keep(FIFTY, easy, SETTINGS) == Keep()
    assert MODM.keep(FIFTY, easy, replace(SETTINGS, keep_small=False)) is None


def test_cache_all_and_cache_large() -> None:
    hit, miss = Plan("tiny-s", CachedImage(a_match(0.3), 6)), Plan("tiny-l", Noise())
    repeat = Plan("tiny-s", CachedImage(a_match(0.3), 30))
    assert MODM.keep(FIFTY, repeat, SETTINGS) is None  # it would stand beside what it was made from
    cache_large = replace(SETTINGS, keep_small=False)
    assert [MODM.keep(FIFTY, plan, SETTINGS) for plan in (hit, miss)] == [Keep(), Keep()]
    assert [MODM.keep(FIFTY, plan, cache_large) for plan in (hit, miss)] == [None, Keep()]


def test_text_is_compared_with_images() -> None:
    query = MODM.needs.matches
    assert query is not None
    assert (query.space, query.reuse) == (Space.IMAGE, Reuse.IMAGE)
    assert not MODM.needs.stranger
    assert (RANDOM.needs.matches, RANDOM.needs.stranger) == (query, True)


@pytest.mark.parametrize(("similarity", "skip"), [(0.96, 25), (0.9, 0)])
def test_by_text_it_goes_by_thresholds_of_its_own(similarity: float, skip: int) -> None:
    assert SETTINGS.calibration is not None
    calibration = replace(SETTINGS.calibration, modm_text=Thresholds.of((0.95, 0.5)))
    plan = ModmText().plan(FIFTY, found(a_match(similarity)), replace(SETTINGS, calibration=calibration))
    assert plan.start == (CachedImage(a_match(similarity), skip) if skip else Noise())


def test_by_text_it_looks_for_the_same_as_by_image() -> None:
    assert MODM.needs.matches is not None
    assert ModmText().needs.matches == replace(MODM.needs.matches, space=Space.TEXT)


@settings(max_examples=200, deadline=None)
@given(REQUESTS, EVIDENCE)
def test_a_random_source_differs_from_modm_in_the_source_alone(request: GenerateRequest, evidence: Evidence) -> None:
    modm, control = MODM.plan(request, evidence, SETTINGS), RANDOM.plan(request, evidence, SETTINGS)
    if evidence.stranger is None or modm.start == Noise():
        assert control.start == Noise()
        return
    assert isinstance(modm.start, CachedImage)
    assert control == Plan(modm.variant, CachedImage(evidence.stranger, modm.start.skip))


def test_a_variant_of_few_steps_refines_in_a_finer_run() -> None:
    """Two steps leave nothing to skip but one; of a run of eight, a similar image is given as many as it deserves."""
    few = replace(SETTINGS, default_steps={"tiny-s": 2, "tiny-l": 25}, refine_steps={"tiny-s": 8})
    plan = MODM.plan(GenerateRequest("a disc"), found(a_match(0.29)), few)
    assert isinstance(plan.start, CachedImage) and plan.start.skip == 4
    assert few.to_run(GenerateRequest("a disc"), plan) == 4
    assert few.to_run(GenerateRequest("a disc", num_inference_steps=6), plan) == 2
