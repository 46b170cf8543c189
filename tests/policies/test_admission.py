"""Admission: what is let in as it is, what is made cheaper, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.policies.examples import SETTINGS, a_match, found
from underpaint.errors import InvalidArgument, Overloaded
from underpaint.policies import POLICIES, CachedLatents, Finished, Noise, Plan
from underpaint.policies.admission import Admitted, Downgrade, Room, admit
from underpaint.requests import SERVICE_CLASSES, GenerateRequest

STEP_S = {"tiny-l": 0.1, "tiny-s": 0.02, "other": 0.1}  # 2.5 s and 0.2 s for an image


def decide(
    backlog_s: float = 0.0, policy: str = "vanilla", plan: Plan | None = None, waited_s: float = 0.0, **wishes: Any
) -> Admitted:
    request = GenerateRequest(prompt="a disc", **{"slo_ms": 3000, **wishes})
    evidence = found(a_match(0.95))
    room = Room(backlog_s, waited_s, lambda variant, steps: STEP_S[variant] * steps)
    return admit(POLICIES[policy], plan or Plan("tiny-l", Noise()), request, evidence, SETTINGS, room)


def test_with_time_enough_nothing_changes() -> None:
    assert decide(0.4).downgrade is None
    assert decide(0.4).plan == Plan("tiny-l", Noise())


def test_without_a_promise_everybody_is_let_in() -> None:
    assert decide(1e6, slo_ms=None).downgrade is None


@pytest.mark.parametrize(
    "backlog_s, downgrade, variant, steps",
    [
        (0.6, Downgrade.VARIANT, "tiny-s", None),
        (2.85, Downgrade.STEPS, "tiny-s", 5),
    ],
)
def test_cheaper_before_refused(backlog_s: float, downgrade: Downgrade, variant: str, steps: int | None) -> None:
    admitted = decide(backlog_s)
    assert (admitted.downgrade, admitted.plan.variant, admitted.request.num_inference_steps) == (
        downgrade,
        variant,
        steps,
    )


def test_what_has_been_waited_counts() -> None:
    assert decide(0.0, waited_s=0.6).downgrade is Downgrade.VARIANT


def test_a_stored_image_where_prompts_were_compared() -> None:
    admitted = decide(0.6, policy="nirvana")
    assert admitted.downgrade is Downgrade.CACHED and isinstance(admitted.plan.start, Finished)
    assert decide(0.6, policy="modm").downgrade is Downgrade.VARIANT  # its similarities mean something else


def test_refused_last_with_when_to_come_back() -> None:
    with pytest.raises(Overloaded, match="retry after") as refused:
        decide(10.0)
    assert refused.value.status == "UNAVAILABLE"
    assert refused.value.retry_after_s == pytest.approx(10.0 + 0.1 - 3.0)


def test_cascades_are_wary_of_the_company() -> None:
    assert decide(0.15, policy="hadis").downgrade is None
    assert decide(0.2, policy="hadis").downgrade is Downgrade.VARIANT
    assert decide(0.4, policy="hadis", variant="tiny-l").downgrade is None  # there is nothing cheaper: it is tried


def test_a_promise_for_all_holds_for_cascades_and_refuses_nobody() -> None:
    promised = replace(SETTINGS, slo_ms=3000)
    room = Room(0.6, 0.0, lambda variant, steps: STEP_S[variant] * steps)
    request, large = GenerateRequest(prompt="a disc"), Plan("tiny-l", Noise())

    def admitted(policy: str, room: Room) -> Admitted:
        return admit(POLICIES[policy], large, request, found(), promised, room)

    assert admitted("hadis", room).plan.variant == "tiny-s"
    assert admitted("vanilla", room).plan == large
    assert admitted("hadis", replace(room, backlog_s=1e6)).downgrade is Downgrade.STEPS


def test_classes_give_way_in_order() -> None:
    assert decide(0.4, service_class="best_effort").downgrade is Downgrade.VARIANT
    assert decide(100.0, service_class="premium").downgrade is Downgrade.STEPS
    with pytest.raises(InvalidArgument, match="best_effort, standard, premium"):
        decide(service_class="royal")


def test_what_the_caller_insists_on_is_not_touched() -> None:
    with pytest.raises(Overloaded):
        decide(0.6, variant="tiny-l")
    assert decide(0.6, num_inference_steps=24).plan.variant == "tiny-s"
    with pytest.raises(Overloaded):
        decide(2.85, num_inference_steps=24)


def test_the_load_does_not_decide_a_reproducible_image() -> None:
    with pytest.raises(Overloaded):
        decide(0.6, cache="reproducible")


def test_steps_that_are_skipped_cost_nothing() -> None:
    plan = Plan("tiny-l", CachedLatents(a_match(0.95, steps=(20,)), 20))
    assert decide(2.4, plan=plan).downgrade is None


@given(
    backlog_s=st.floats(0, 100),
    slo_ms=st.integers(1, 100_000),
    service_class=st.sampled_from(SERVICE_CLASSES),
    policy=st.sampled_from(sorted(POLICIES)),
)
def test_what_is_let_in_is_done_in_time(backlog_s: float, slo_ms: int, service_class: str, policy: str) -> None:
    try:
        admitted = decide(backlog_s, policy, slo_ms=slo_ms, service_class=service_class)
    except Overloaded as refused:
        assert service_class != "premium" and refused.retry_after_s > 0
        return
    steps = admitted.request.num_inference_steps or SETTINGS.default_steps[admitted.plan.variant]
    work_s = 0.0 if isinstance(admitted.plan.start, Finished) else STEP_S[admitted.plan.variant] * steps
    assert service_class == "premium" or backlog_s + work_s <= slo_ms / 1e3 + 1e-9
