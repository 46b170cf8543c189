"""DiffServe and HADIS: who paints first, and who paints again."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.policies.examples import EVIDENCE, REQUESTS
from underpaint.deployment import Deployment, Scorer, Variant
from underpaint.evidence import Evidence, Measured
from underpaint.policies import Accept, Escalate, Escalation, Fallback, Noise, Plan, Policy, Settings, by_name
from underpaint.requests import GenerateRequest

DIFFSERVE, HADIS = by_name("diffserve"), by_name("hadis")
BOTH = pytest.mark.parametrize("policy", [DIFFSERVE, HADIS])
SETTINGS = Settings(
    small="tiny-s",
    large="tiny-l",
    default_steps={"tiny-s": 4, "tiny-l": 8, "other": 5},
    confidence_threshold=0.7,
    router_threshold=0.6,
)
LARGE = Plan("tiny-l", Noise())
CIRCLE = GenerateRequest("a circle", seed=1)
SCORER = Scorer("w", "w-tiny-s", (0.0, 0.1, 0.4, 0.8, 1.0))


@BOTH
def test_the_small_variant_paints_first_and_the_large_one_may_follow(policy: Policy) -> None:
    assert policy.plan(CIRCLE, Evidence(1), SETTINGS) == Plan("tiny-s", Noise(), Escalation(LARGE, 0.7))


@pytest.mark.parametrize(("score", "hard"), [(None, False), (0.0, False), (0.599, False), (0.6, True), (1.0, True)])
def test_what_the_router_calls_hard_never_touches_the_small_variant(score: float | None, hard: bool) -> None:
    evidence = Evidence(1, router_score=score)
    plan = HADIS.plan(CIRCLE, evidence, SETTINGS)
    assert plan == (LARGE if hard else Plan("tiny-s", Noise(), Escalation(LARGE, 0.7)))
    assert DIFFSERVE.plan(CIRCLE, evidence, SETTINGS).variant == "tiny-s"


def test_only_hadis_wants_the_router() -> None:
    assert not DIFFSERVE.asks_router(CIRCLE, Evidence(1), SETTINGS)
    assert HADIS.asks_router(CIRCLE, Evidence(1), SETTINGS)
    assert not HADIS.asks_router(replace(CIRCLE, variant="tiny-s"), Evidence(1), SETTINGS)
    assert DIFFSERVE.judges
    assert HADIS.judges
    assert not by_name("vanilla").judges


@BOTH
@pytest.mark.parametrize(("score", "good"), [(0.0, False), (0.699, False), (0.7, True), (1.0, True)])
def test_an_image_is_accepted_from_the_threshold_on(policy: Policy, score: float, good: bool) -> None:
    plan = policy.plan(CIRCLE, Evidence(1), SETTINGS)
    assert policy.after(plan, score, None) == (Accept() if good else Escalate(LARGE))


@BOTH
def test_without_a_score_the_image_is_given_and_the_caller_told(policy: Policy) -> None:
    plan = policy.plan(CIRCLE, Evidence(1), SETTINGS)
    assert policy.after(plan, None, None) == Accept(Fallback.UNJUDGED)


@BOTH
@pytest.mark.parametrize("spare_s", [0.999, 0.0, -1.0])
def test_what_could_not_be_painted_again_in_time_is_given_as_it_is(policy: Policy, spare_s: float) -> None:
    measured = Measured(work_ms={"tiny-l": 104.1875})
    plan = policy.plan(CIRCLE, Evidence(1, measured=measured), SETTINGS)
    assert plan.then is not None
    assert plan.then.predicted_s == pytest.approx(1.2 * 0.8335)
    assert policy.after(plan, 0.1, spare_s) == Accept(Fallback.LATE)
    assert policy.after(plan, 0.1, 1.01) == Escalate(LARGE)
    assert policy.after(plan, 0.8, spare_s) == Accept()  # what is good needs no excuse


@BOTH
def test_a_caller_s_steps_count_in_the_prediction(policy: Policy) -> None:
    evidence = Evidence(1, measured=Measured(work_ms={"tiny-l": 100.0}))
    plans = [policy.plan(GenerateRequest("a", num_inference_steps=n), evidence, SETTINGS) for n in (None, 16)]
    predicted = [plan.then.predicted_s for plan in plans if plan.then]
    assert predicted[1] == pytest.approx(2 * predicted[0])


@BOTH
@given(REQUESTS, EVIDENCE, st.none() | st.floats(0, 1))
def test_a_variant_that_the_caller_names_is_not_judged(
    policy: Policy, request: GenerateRequest, evidence: Evidence, score: float | None
) -> None:
    named = replace(request, variant="other")
    plan = policy.plan(named, evidence, SETTINGS)
    assert plan == Plan("other", Noise())
    assert policy.after(plan, score, evidence.time_left_s) == Accept()


@BOTH
@given(EVIDENCE, st.none() | st.floats(0, 1))
def test_nothing_is_painted_a_third_time(policy: Policy, evidence: Evidence, score: float | None) -> None:
    plan = policy.plan(CIRCLE, evidence, SETTINGS)
    verdict = policy.after(plan, score, None)
    if isinstance(verdict, Escalate):
        assert policy.after(verdict.plan, score, None) == Accept()


@BOTH
def test_where_one_variant_plays_both_roles_there_is_no_cascade(policy: Policy) -> None:
    assert policy.plan(CIRCLE, Evidence(1), replace(SETTINGS, small="tiny-l")) == LARGE


# Shares and cutoffs -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("share", "cutoff"), [(0.0, 0.0), (0.25, 0.1), (0.5, 0.4), (0.625, 0.6), (1.0, 1.0)])
def test_a_cutoff_has_its_share_of_scores_below(share: float, cutoff: float) -> None:
    assert SCORER.cutoff(share) == pytest.approx(cutoff)


def test_shares_count_where_no_threshold_is_given() -> None:
    shares = Settings("s", "l", defer_share=0.5, hard_share=0.25, router=SCORER, discriminator=SCORER)
    assert (shares.confidence_cutoff, shares.router_cutoff) == (0.4, 0.8)
    decided = replace(shares, confidence_threshold=0.2, router_threshold=0.3)
    assert (decided.confidence_cutoff, decided.router_cutoff) == (0.2, 0.3)


def test_none_and_all_mean_what_they_say_whatever_the_scores() -> None:
    none = Settings("s", "l", defer_share=0, hard_share=0, router=SCORER, discriminator=SCORER)
    assert (none.confidence_cutoff, none.router_cutoff) == (0.0, math.inf)
    every = replace(none, defer_share=1, hard_share=1)
    assert (every.confidence_cutoff, every.router_cutoff) == (math.inf, 0.0)


def deployed(small: str = "w-tiny-s") -> Deployment:
    variants = {
        name: Variant(name, 8, 50, 1.0, 9.0, ((64, 64),), ("ddim",), 22, weights=f"w-{name}")
        for name in ("tiny-s", "tiny-l")
    }
    scorer = replace(SCORER, small=small)
    return Deployment("tiny", variants, "tiny-s", "tiny-l", router=scorer, discriminator=scorer)


def test_scores_about_another_small_variant_have_no_quantiles_to_go_by() -> None:
    settings = Settings.of(deployed())
    assert (settings.discriminator, settings.unscored) == (deployed().discriminator, "")
    for strange in (Settings.of(deployed("w-older")), Settings.of(deployed(), small="tiny-l")):
        assert (strange.confidence_cutoff, strange.router_cutoff) == (0.5, 0.5)
        assert strange.unscored.startswith("router and discriminator did not learn from pictures of this tiny-")


def test_a_deployment_with_scorers_comes_back_from_its_json(tmp_path: Path) -> None:
    (tmp_path / "deployment.json").write_text(deployed().to_json())
    assert Deployment.load(tmp_path) == deployed()
