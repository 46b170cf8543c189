"""What holds for every policy. They are pure: what they are told decides what they plan."""

from __future__ import annotations

from dataclasses import FrozenInstanceError

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.policies.examples import EVIDENCE, REQUESTS, SETTINGS, UNCALIBRATED, a_match, found
from underpaint import policies
from underpaint.errors import InvalidArgument
from underpaint.evidence import Evidence
from underpaint.policies import (
    POLICIES,
    Accept,
    CachedImage,
    CachedLatents,
    Finished,
    Keep,
    Noise,
    Plan,
    Policy,
    Settings,
)
from underpaint.requests import GenerateRequest

ALL = st.sampled_from([POLICIES[name] for name in POLICIES])
CIRCLE = GenerateRequest("a circle", seed=1)


def test_policies_are_found_by_their_own_name() -> None:
    published = ["vanilla", "modm", "nirvana", "diffserve", "hadis"]
    assert list(POLICIES) == [*published, "modm-text", "retrieval", "small", "random-mix", "random-source"]
    for name, policy in POLICIES.items():
        assert policies.by_name(name) is policy
        assert policy.name == name


def test_an_unknown_policy_is_refused_and_the_known_ones_listed() -> None:
    with pytest.raises(InvalidArgument, match=r"^policy: got 'magic'; allowed: .*vanilla"):
        policies.by_name("magic")


@settings(max_examples=200, deadline=None)
@given(ALL, REQUESTS, EVIDENCE)
def test_the_same_evidence_gives_the_same_plan(policy: Policy, request: GenerateRequest, evidence: Evidence) -> None:
    plan = policy.plan(request, evidence, SETTINGS)
    assert plan == policy.plan(request, evidence, SETTINGS)
    assert policy.keep(request, plan, SETTINGS) == policy.keep(request, plan, SETTINGS)
    verdicts = [policy.after(plan, None, evidence.time_left_s) for _ in range(2)]
    assert verdicts[0] == verdicts[1]


@settings(max_examples=300, deadline=None)
@given(ALL, REQUESTS, EVIDENCE)
def test_every_plan_can_be_run(policy: Policy, request: GenerateRequest, evidence: Evidence) -> None:
    plan = policy.plan(request, evidence, SETTINGS)
    steps = SETTINGS.steps(request, plan.variant)
    match plan.start:
        case CachedImage(entry, skip):
            assert 0 < skip < steps
            assert entry in (*evidence.matches, evidence.stranger)
        case CachedLatents(entry, step):
            assert 0 < step < steps
            assert step in entry.steps
            assert entry in evidence.matches
        case Finished(entry):
            assert entry in evidence.matches
        case _:
            assert plan.start == Noise()
    keep = policy.keep(request, plan, SETTINGS)
    if keep is not None:
        assert list(keep.steps) == sorted(set(keep.steps))
        assert all(0 < step < steps for step in keep.steps)


@settings(max_examples=200, deadline=None)
@given(ALL, REQUESTS, EVIDENCE)
def test_a_callers_choice_of_variant_is_kept(policy: Policy, request: GenerateRequest, evidence: Evidence) -> None:
    plan = policy.plan(request, evidence, SETTINGS)
    assert request.variant in (None, plan.variant)


@settings(max_examples=200, deadline=None)
@given(ALL, REQUESTS, EVIDENCE)
def test_what_is_not_calibrated_never_hits(policy: Policy, request: GenerateRequest, evidence: Evidence) -> None:
    assert policy.plan(request, evidence, UNCALIBRATED).start == Noise()


@settings(max_examples=50, deadline=None)
@given(ALL, REQUESTS)
def test_without_matches_everything_starts_from_noise(policy: Policy, request: GenerateRequest) -> None:
    assert policy.plan(request, Evidence(1), SETTINGS).start == Noise()


@settings(max_examples=100, deadline=None)
@given(ALL, REQUESTS, EVIDENCE)
def test_only_those_who_ask_for_matches_use_them(policy: Policy, request: GenerateRequest, evidence: Evidence) -> None:
    """The front door gathers what is declared, so what is used must be."""
    if policy.needs.matches is None:
        assert policy.plan(request, evidence, SETTINGS).start == Noise()
        assert policy.keep(request, policy.plan(request, evidence, SETTINGS), SETTINGS) is None


@settings(max_examples=30, deadline=None)
@given(EVIDENCE)
def test_vanilla_paints_with_the_large_variant_from_noise_whatever_happens(evidence: Evidence) -> None:
    vanilla = policies.by_name("vanilla")
    plan = vanilla.plan(CIRCLE, evidence, SETTINGS)
    assert plan == Plan("tiny-l", Noise())
    assert vanilla.after(plan, None, evidence.time_left_s) == Accept()


def test_small_paints_with_the_small_variant() -> None:
    assert policies.by_name("small").plan(CIRCLE, Evidence(1), SETTINGS) == Plan("tiny-s", Noise())


def test_a_similar_image_is_returned_as_it_is_and_a_new_one_kept() -> None:
    retrieval = policies.by_name("retrieval")
    match = a_match(0.9)
    hit, miss = (retrieval.plan(CIRCLE, found(m), SETTINGS) for m in (match, a_match(0.89)))
    assert hit == Plan("tiny-l", Finished(match))
    assert miss == Plan("tiny-l", Noise())
    assert [retrieval.keep(CIRCLE, plan, SETTINGS) for plan in (hit, miss)] == [None, Keep()]


def test_a_random_mix_sends_its_share_to_the_small_variant() -> None:
    mix = policies.by_name("random-mix")
    requests = [GenerateRequest(f"circle {i % 50}", seed=i) for i in range(2000)]
    small = sum(mix.plan(request, Evidence(1), SETTINGS).variant == "tiny-s" for request in requests)
    assert small / len(requests) == pytest.approx(0.3, abs=0.05)


@pytest.mark.parametrize(("share", "variant"), [(0.0, "tiny-l"), (1.0, "tiny-s")])
def test_a_random_mix_may_be_no_mix(share: float, variant: str) -> None:
    told = Settings("tiny-s", "tiny-l", small_share=share)
    requests = [GenerateRequest("a circle", seed=seed) for seed in range(200)]
    assert {policies.by_name("random-mix").plan(r, Evidence(1), told).variant for r in requests} == {variant}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("small_share", -0.1),
        ("small_share", 1.1),
        ("max_generation", 0),
        ("defer_share", 1.01),
        ("hard_share", -0.01),
        ("slo_ms", 0),
        ("confidence_threshold", 1.5),
        ("router_threshold", -0.5),
        ("router_threshold", float("nan")),
    ],
)
def test_settings_out_of_range_are_refused(name: str, value: float) -> None:
    with pytest.raises(InvalidArgument, match=f"^{name}: got "):
        Settings("tiny-s", "tiny-l", **{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("value", "name"), [(Plan("tiny-l", Noise()), "variant"), (SETTINGS, "large"), (Evidence(1), "in_flight")]
)
def test_the_vocabulary_cannot_be_changed_under_way(value: object, name: str) -> None:
    with pytest.raises(FrozenInstanceError):
        setattr(value, name, "other")
