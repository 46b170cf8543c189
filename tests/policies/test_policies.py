"""Policies are pure: what they are told decides what they plan."""

from __future__ import annotations

from dataclasses import FrozenInstanceError

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from underpaint import policies
from underpaint.errors import InvalidArgument
from underpaint.evidence import Evidence
from underpaint.policies import POLICIES, Accept, Noise, Plan, Settings
from underpaint.requests import GenerateRequest

SETTINGS = Settings(small="tiny-s", large="tiny-l")
EVIDENCE = st.builds(Evidence, in_flight=st.integers(1, 1000), time_left_s=st.none() | st.floats(-10, 1000))


def test_policies_are_found_by_their_own_name() -> None:
    assert POLICIES
    for name, policy in POLICIES.items():
        assert policies.by_name(name) is policy
        assert policy.name == name


def test_an_unknown_policy_is_refused_and_the_known_ones_listed() -> None:
    with pytest.raises(InvalidArgument, match=r"^policy: got 'magic'; allowed: .*vanilla"):
        policies.by_name("magic")


@settings(max_examples=30, deadline=None)
@given(EVIDENCE)
def test_vanilla_paints_with_the_large_variant_from_noise_whatever_happens(evidence: Evidence) -> None:
    vanilla = policies.by_name("vanilla")
    plan = vanilla.plan(GenerateRequest("a circle"), evidence, SETTINGS)
    assert plan == Plan("tiny-l", Noise())
    assert vanilla.after(plan, None, evidence.time_left_s, SETTINGS) == Accept()


def test_vanilla_heeds_the_callers_choice_of_variant() -> None:
    plan = policies.by_name("vanilla").plan(GenerateRequest("a circle", variant="tiny-s"), Evidence(1), SETTINGS)
    assert plan == Plan("tiny-s", Noise())


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(sorted(POLICIES)), EVIDENCE)
def test_the_same_evidence_gives_the_same_plan(name: str, evidence: Evidence) -> None:
    request = GenerateRequest("a circle", seed=1)
    policy = policies.by_name(name)
    plan = policy.plan(request, evidence, SETTINGS)
    assert plan == policy.plan(request, evidence, SETTINGS)
    verdicts = [policy.after(plan, None, evidence.time_left_s, SETTINGS) for _ in range(2)]
    assert verdicts[0] == verdicts[1]


@pytest.mark.parametrize(
    ("value", "name"), [(Plan("tiny-l", Noise()), "variant"), (SETTINGS, "large"), (Evidence(1), "in_flight")]
)
def test_the_vocabulary_cannot_be_changed_under_way(value: object, name: str) -> None:
    with pytest.raises(FrozenInstanceError):
        setattr(value, name, "other")
