"""Cascades through the front door: the image that is served is the image that was judged."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.front_door.fake_server import DEPLOYMENT, READERS, FakeServer, open_door, run
from underpaint.errors import Cancelled, Unavailable, Unsupported
from underpaint.front_door.door import FrontDoor
from underpaint.front_door.gathering import Patience
from underpaint.front_door.outcome import First, Outcome
from underpaint.front_door.reply import Reply
from underpaint.policies import Settings
from underpaint.requests import GenerateRequest

SETTINGS = Settings.of(DEPLOYMENT, confidence_threshold=0.7, router_threshold=0.6)
BOTH = pytest.mark.parametrize("policy", ["diffserve", "hadis"])


def request(policy: str = "diffserve", **wishes: Any) -> GenerateRequest:
    return GenerateRequest("a circle", policy=policy, **{"request_id": "mine", "seed": 4, **wishes})


def scored(router: float = 0.2, discriminator: float = 0.9, **state: Any) -> FakeServer:
    server = FakeServer(**state)
    server.scorers.scores = {"router": router, "discriminator": discriminator}
    return server


def serve(server: FakeServer, wanted: GenerateRequest, **limits: Any) -> Reply:
    return run(open_door(server, SETTINGS, **limits).serve(wanted))


def painters(server: FakeServer) -> list[str]:
    return [call.model for call in server.calls]


def stages(outcome: Outcome) -> float:
    timings = vars(outcome.timings_ms)
    return sum(ms for stage, ms in timings.items() if stage != "total")


@BOTH
def test_a_good_image_of_the_small_variant_is_served(policy: str) -> None:
    server = scored(discriminator=0.9)
    outcome = serve(server, request(policy)).outcome
    assert painters(server) == ["little"]
    assert (outcome.variant, outcome.confidence, outcome.escalated, outcome.fallback) == ("little", 0.9, False, None)
    assert outcome.escalated_from is None
    assert stages(outcome) == pytest.approx(outcome.timings_ms.total, abs=0.02)


@BOTH
def test_a_poor_one_is_painted_again_from_the_same_noise(policy: str) -> None:
    server = scored(discriminator=0.3)
    reply = serve(server, request(policy))
    outcome = reply.outcome
    assert painters(server) == ["little", "big"]
    assert [call.inputs["seed"].item() for call in server.calls] == [4, 4]
    assert (outcome.variant, outcome.steps_run, outcome.escalated) == ("big", 25, True)
    assert outcome.escalated_from == First("little", num_inference_steps=10, steps_run=10)
    assert (outcome.confidence, outcome.fallback) == (0.3, None)
    assert outcome.timings_ms.other > 0
    assert stages(outcome) == pytest.approx(outcome.timings_ms.total, abs=0.02)
    assert server.scorers.asked.count("discriminator") == 1
    np.testing.assert_array_equal(np.unique(reply.image), [2])  # the second call's image


def test_it_is_the_very_image_that_is_judged() -> None:
    server = scored()
    reply = serve(server, request())
    (judged,) = server.scorers.judged
    np.testing.assert_array_equal(judged, reply.image)


def test_a_hard_prompt_never_touches_the_small_variant() -> None:
    server = scored(router=0.8)
    outcome = serve(server, request("hadis")).outcome
    assert painters(server) == ["big"]
    assert server.scorers.asked == ["router"]  # and nobody judges what cannot be improved
    assert (outcome.router_score, outcome.confidence, outcome.escalated) == (0.8, None, False)
    assert outcome.timings_ms.route > 0


def test_an_easy_prompt_is_routed_and_judged() -> None:
    server = scored(router=0.1)
    outcome = serve(server, request("hadis")).outcome
    assert server.scorers.asked == ["router", "discriminator"]
    assert (outcome.router_score, outcome.variant) == (0.1, "little")


@BOTH
def test_a_caller_who_names_a_variant_gets_it_with_no_cascade(policy: str) -> None:
    server = scored(router=1.0, discriminator=0.0)
    assert serve(server, request(policy, variant="little")).outcome.variant == "little"
    assert painters(server) == ["little"]
    assert server.scorers.asked == []


@pytest.mark.parametrize("failure", [Unavailable("gone"), KeyError("score")])
def test_a_discriminator_that_fails_costs_the_score_alone(failure: Exception) -> None:
    server = scored()
    server.scorers.failures = {"discriminator": failure}
    outcome = serve(server, request()).outcome
    assert (outcome.variant, outcome.confidence, outcome.fallback) == ("little", None, "unjudged")
    assert len(server.cache.log) == 1
    assert server.cache.log[0].startswith("scoring: ")


def test_a_discriminator_that_hangs_is_not_waited_for() -> None:
    server = scored()
    server.scorers.hanging = {"discriminator"}
    began = time.monotonic()
    outcome = serve(server, request(), patience=Patience(score_s=0.05)).outcome
    assert time.monotonic() - began < 5.0
    assert outcome.fallback == "unjudged"


def test_a_router_that_fails_or_hangs_is_done_without() -> None:
    failing, hanging = scored(), scored()
    failing.scorers.failures = {"router": Unavailable("gone")}
    hanging.scorers.hanging = {"router"}
    for server in (failing, hanging):
        outcome = serve(server, request("hadis"), patience=Patience(score_s=0.05)).outcome
        assert (outcome.router_score, outcome.variant, outcome.confidence) == (None, "little", 0.9)


@pytest.mark.parametrize("scorer", ["router", "discriminator"])
def test_a_reproducible_request_is_not_decided_by_an_accident(scorer: str) -> None:
    server = scored()
    server.scorers.failures = {scorer: Unavailable("gone")}
    with pytest.raises(Unavailable, match="gone"):
        serve(server, request("hadis", cache="reproducible"))


def test_the_small_image_is_given_where_painting_again_would_take_too_long() -> None:
    server = scored(discriminator=0.1)
    door = open_door(server, SETTINGS)

    async def scenario() -> Outcome:
        door._costs.step("big", 1.0, work_s=1e3)
        return (await door.serve(request(deadline_ms=20_000))).outcome

    outcome = run(scenario())
    assert (outcome.variant, outcome.fallback, outcome.escalated) == ("little", "late", False)
    assert painters(server) == ["little"]


def test_what_the_server_has_let_in_counts_where_all_requests_are_promised_something() -> None:
    """The large variant's half second fits into the 0.9 that were promised, but not behind another one."""
    server = scored(discriminator=0.1, slow=frozenset({"big"}))
    door = open_door(server, replace(SETTINGS, slo_ms=900))
    for variant, step_s in (("big", 0.02), ("little", 0.001)):
        door._workload._steps_of(variant).append(step_s)
        door._costs.step(variant, 1.0, work_s=step_s)

    async def scenario() -> list[Outcome]:
        first = asyncio.ensure_future(door.serve(request(request_id="first")))
        await server.until_painting(1)
        second = await door.serve(request(request_id="second"))
        server.finish("first")
        return [(await first).outcome, second.outcome]

    first, second = run(scenario())
    assert (first.variant, first.escalated, first.downgrade) == ("big", True, None)
    assert (second.variant, second.escalated, second.fallback) == ("little", False, "late")


def test_the_small_image_is_given_where_the_deadline_passes_while_it_is_painted_again() -> None:
    server = scored(discriminator=0.1, slow=frozenset({"big"}))
    reply = serve(server, request(deadline_ms=300))
    outcome = reply.outcome
    assert painters(server) == ["little", "big"]
    assert (outcome.variant, outcome.fallback, outcome.escalated) == ("little", "late", False)
    assert outcome.timings_ms.total >= 290
    assert stages(outcome) == pytest.approx(outcome.timings_ms.total, abs=0.02)
    np.testing.assert_array_equal(np.unique(reply.image), [1])
    assert ("big", "mine") in server.cancelled()


def test_the_small_image_is_given_where_the_large_variant_fails() -> None:
    server = scored(discriminator=0.1)
    server.refusals = {"big": Unavailable("big_unet is gone")}
    outcome = serve(server, request()).outcome
    assert (outcome.variant, outcome.fallback) == ("little", "failed")


def test_a_caller_who_leaves_gets_nothing_even_so() -> None:
    server = scored(discriminator=0.1, slow=frozenset({"big"}))
    door = open_door(server, SETTINGS)

    async def scenario() -> None:
        under_way = asyncio.create_task(door.serve(request()))
        while door.variant_of("mine") != "big":
            await asyncio.sleep(0)
        await door.cancel("mine")
        with pytest.raises(Cancelled):
            await under_way

    run(scenario())


def test_a_deployment_without_a_discriminator_refuses_cascades() -> None:
    server = scored()
    door = FrontDoor(replace(DEPLOYMENT, discriminator=None), server, READERS)
    with pytest.raises(Unsupported, match="no discriminator"):
        run(door.serve(request()))
    assert server.calls == []


def test_scores_escalations_and_fallbacks_are_counted() -> None:
    server = scored(router=0.1, discriminator=0.5)
    door = open_door(server, SETTINGS)

    async def scenario() -> None:
        await door.serve(request("hadis"))
        server.scorers.failures = {"discriminator": Unavailable("gone")}
        await door.serve(request("hadis"))

    run(scenario())
    tally = door.tally
    assert (tally.escalations["hadis",], tally.fallbacks["unjudged",]) == (1, 1)
    assert (tally.steps_run["hadis", "little"], tally.steps_run["hadis", "big"]) == (20, 25)
    assert tally.scores["difficulty", "+Inf"] == 2
    assert tally.scores["confidence", "+Inf"] == tally.scores["confidence", "0.5"] == 1
    assert tally.scores["confidence", "0.4378"] == 0
