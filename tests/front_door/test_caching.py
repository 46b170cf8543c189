"""Requests and the cache: what it saves, and that it never costs a request anything but a little time."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.front_door.fake_cache import IMAGE, LATENTS, FakeCache, a_match, bytes_of, vector
from tests.front_door.fake_server import (
    CALIBRATED,
    CALIBRATION,
    DEPLOYMENT,
    LIMITS,
    READERS,
    FakeServer,
    open_door,
    run,
)
from underpaint.errors import Internal, InvalidArgument, NotFound, Unavailable, UnderpaintError
from underpaint.evidence import Match
from underpaint.front_door.cache_client import CacheClient
from underpaint.front_door.complaints import Complaints
from underpaint.front_door.door import FrontDoor
from underpaint.front_door.embedders import Embedders
from underpaint.front_door.gathering import Patience, direction
from underpaint.front_door.memory import Memory
from underpaint.front_door.reply import Reply
from underpaint.front_door.scoring import Scoring
from underpaint.front_door.tally import Tally
from underpaint.front_door.traffic import Release, Traffic
from underpaint.front_door.underway import Underway
from underpaint.policies import Settings
from underpaint.requests import GenerateRequest

ALL_LATENTS = {(1, step): LATENTS for step in (2, 5, 7, 10, 12, 17, 22)}
STEPS = (2, 5, 7, 10, 12, 17, 22)
ONE_VAE = replace(
    DEPLOYMENT, variants={name: replace(each, autoencoder="vae") for name, each in DEPLOYMENT.variants.items()}
)


def circle(policy: str, **wishes: Any) -> GenerateRequest:
    return GenerateRequest.parse({"prompt": "a red circle", "policy": policy, "seed": 4, **wishes})


def serve(server: FakeServer, request: GenerateRequest, settings: Settings = CALIBRATED, **limits: Any) -> Reply:
    return run(open_door(server, settings, **limits).serve(request))


def knowing(*matches: Match, **attributes: Any) -> FakeServer:
    return FakeServer(cache=FakeCache(matches=list(matches), **attributes))


async def wake_after(delay_s: float, asked: str, server: FakeServer) -> None:
    """Let what hangs answer so long after something was asked."""
    while asked not in server.cache.asked:
        await asyncio.sleep(0)
    await asyncio.sleep(delay_s)
    server.cache.wake.set()


def check_served_as_a_miss(server: FakeServer, reply: Reply, why: str, warned: bool) -> None:
    assert [call.model for call in server.calls][-1] == "big"
    outcome = reply.outcome
    assert (outcome.start, outcome.variant, outcome.source, outcome.generation) == ("noise", "big", None, 0)
    assert (outcome.miss, outcome.steps_run, outcome.steps_skipped) == (why, 25, 0)
    assert [w.startswith("cache: ") and w.endswith("; painted from noise") for w in outcome.warnings] == [True] * warned


# Hits ---------------------------------------------------------------------------------------------------------------


def test_modm_refines_a_similar_image_with_the_small_variant() -> None:
    server = knowing(a_match(0.85, generation=1))
    outcome = serve(server, circle("modm")).outcome
    (call,) = server.calls
    assert call.model == "little_refine"
    np.testing.assert_array_equal(call.inputs["image"], IMAGE[None])
    assert call.inputs["start_step"].tolist() == [[6]]
    assert call.inputs["num_inference_steps"].tolist() == [[10]]
    assert (outcome.start, outcome.variant, outcome.miss, outcome.generation) == ("cached_image", "little", None, 2)
    assert (outcome.steps_run, outcome.steps_skipped, outcome.num_inference_steps) == (4, 6, 10)
    source = outcome.source
    assert source is not None
    assert (source.entry_id, source.similarity, source.skip) == (1, 0.85, 6)
    assert (source.prompt, source.variant, source.seed) == ("a crimson disc", "big", 77)
    assert outcome.warnings == ()


def test_nirvana_resumes_the_latents_of_a_similar_prompt() -> None:
    server = knowing(a_match(0.95, steps=STEPS), latents=ALL_LATENTS)
    outcome = serve(server, circle("nirvana")).outcome
    (call,) = server.calls
    assert call.model == "big_resume"
    np.testing.assert_array_equal(call.inputs["start_latents"], LATENTS[None])
    assert call.inputs["start_step"].tolist() == [[12]]
    assert (outcome.start, outcome.variant, outcome.generation) == ("cached_latents", "big", 1)
    assert (outcome.steps_run, outcome.steps_skipped) == (13, 12)
    assert outcome.source is not None
    assert outcome.source.skip == 12


def test_retrieval_returns_what_is_there() -> None:
    server = knowing(a_match(0.96, generation=2))
    reply = serve(server, circle("retrieval"))
    assert server.calls == []
    np.testing.assert_array_equal(reply.image, IMAGE)
    outcome = reply.outcome
    assert (outcome.start, outcome.steps_run, outcome.steps_skipped, outcome.generation) == ("finished", 0, 25, 2)
    assert outcome.source is not None
    assert outcome.source.seed == 77
    assert reply.keepsake is None


@pytest.mark.parametrize("policy", ["modm", "retrieval", "random-source"])
def test_the_image_of_a_hit_comes_along_with_the_lookup(policy: str) -> None:
    server = knowing(a_match(0.96), along=True)
    outcome = serve(server, circle(policy)).outcome
    assert outcome.source is not None
    assert "fetch" not in server.cache.asked
    if server.calls:
        np.testing.assert_array_equal(server.calls[0].inputs["image"], IMAGE[None])


def test_the_latents_of_a_hit_come_along_with_the_lookup() -> None:
    server = knowing(a_match(0.75, steps=STEPS), latents=ALL_LATENTS, along=True)
    assert serve(server, circle("nirvana")).outcome.steps_skipped == 5
    assert "fetch" not in server.cache.asked
    np.testing.assert_array_equal(server.calls[0].inputs["start_latents"], LATENTS[None])


@pytest.mark.parametrize("along", [True, False])
@pytest.mark.parametrize("policy", ["modm", "random-source"])
def test_what_is_refined_starts_from_finished_latents_of_the_same_autoencoder(policy: str, along: bool) -> None:
    server = knowing(a_match(0.85), along=along, finished={(1, "vae"): LATENTS})
    door = FrontDoor(ONE_VAE, server, READERS, LIMITS, Settings.of(ONE_VAE, CALIBRATION), log=server.cache.log.append)
    outcome = run(door.serve(circle(policy))).outcome
    (call,) = server.calls
    assert call.model == "little_resume" and "image" not in call.inputs and "start_latents" not in call.inputs
    np.testing.assert_array_equal(call.inputs["image_latents"], LATENTS[None])
    assert (outcome.start, outcome.steps_skipped) == ("cached_image", 6)
    assert ("fetch" in server.cache.asked) is not along
    assert server.cache.log == []


def test_a_finished_image_is_an_image_even_where_its_latents_are_at_hand() -> None:
    server = knowing(a_match(0.96), along=True, finished={(1, "vae"): LATENTS})
    door = FrontDoor(ONE_VAE, server, READERS, LIMITS, Settings.of(ONE_VAE, CALIBRATION), log=server.cache.log.append)

    async def scenario() -> list[Reply]:
        return [await door.serve(circle(policy)) for policy in ("modm", "retrieval")]

    np.testing.assert_array_equal(run(scenario())[1].image, IMAGE)


def test_the_words_of_a_prompt_are_embedded_once() -> None:
    server = knowing(a_match(0.85))

    async def scenario() -> None:
        door = open_door(server, CALIBRATED)
        for prompt in ("a red circle", "a blue square", "a red circle"):
            await door.serve(circle("modm", prompt=prompt))

    run(scenario())
    assert Counter(server.cache.asked)["embed_text"] == 2
    first, _, again = server.cache.lookups
    np.testing.assert_array_equal(first["embedding"], again["embedding"])


def test_an_image_comes_along_only_where_it_will_be_used() -> None:
    for policy in ("modm", "nirvana"):
        server = knowing(a_match(0.5, steps=STEPS), along=True)
        serve(server, circle(policy))
        (lookup,) = server.cache.lookups
        steps = {"modm": [0], "nirvana": [12, 5]}[policy]
        assert lookup["bring_step"] == steps and lookup["bring_from"][-1] == pytest.approx(0.6 if steps == [0] else 0.7)
        assert "fetch" not in server.cache.asked


def test_retrieval_does_not_wait_for_those_who_paint() -> None:
    server = FakeServer(slow=frozenset({"big"}), cache=FakeCache(matches=[a_match(0.96)]))

    async def scenario() -> None:
        door = open_door(server, CALIBRATED, concurrency=1)
        painting = asyncio.create_task(door.serve(circle("vanilla", request_id="slow")))
        await server.until_painting(1)
        await door.serve(circle("retrieval"))
        server.finish("slow")
        await painting

    run(scenario())


def test_a_random_source_is_looked_up_by_chance_and_used_as_modm_would() -> None:
    server = knowing(a_match(0.85))
    serve(server, circle("random-source"))
    similar, stranger = server.cache.lookups
    np.testing.assert_array_equal(similar["embedding"], vector("a red circle"))
    np.testing.assert_array_equal(stranger["embedding"], direction(circle("random-source"), 8))
    assert server.calls[0].model == "little_refine"
    assert server.calls[0].inputs["start_step"].item() == 6


def test_no_stranger_is_looked_up_where_modm_would_have_missed() -> None:
    server = knowing(a_match(0.5))
    serve(server, circle("random-source"))
    assert len(server.cache.lookups) == 1


def test_the_direction_of_a_stranger_is_a_matter_of_the_seed() -> None:
    one, same, other = (direction(circle("modm", seed=seed), 16) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert abs(float(one @ other)) < 0.99
    assert float(np.linalg.norm(one)) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize(
    ("policy", "space", "other_scope"),
    [("modm", "image", False), ("retrieval", "text", False), ("nirvana", "text", True)],
)
def test_a_policy_looks_where_it_should(policy: str, space: str, other_scope: bool) -> None:
    server = knowing()
    serve(server, circle(policy))
    serve(server, circle("modm"))
    (lookup, images) = server.cache.lookups
    assert (lookup["space"], lookup["max_generation"]) == (space, [CALIBRATED.max_generation - 1])
    assert (lookup["scope"] != images["scope"]) == other_scope
    np.testing.assert_array_equal(lookup["embedding"], vector("a red circle"))


@pytest.mark.parametrize(
    ("wishes", "images_apart", "latents_apart"),
    [
        ({}, False, False),
        ({"seed": 9}, False, False),
        ({"tenant": "acme"}, True, True),
        ({"negative_prompt": "blue"}, True, True),
        ({"num_inference_steps": 24}, False, True),
        ({"guidance_scale": 2.5}, False, True),
        ({"scheduler": "euler"}, False, True),
    ],
)
def test_what_is_reused_must_fit(wishes: dict[str, Any], images_apart: bool, latents_apart: bool) -> None:
    for policy, apart in (("modm", images_apart), ("nirvana", latents_apart)):
        server = knowing()
        for request in (circle(policy), circle(policy, **wishes)):
            serve(server, request)
        one, other = (lookup["scope"] for lookup in server.cache.lookups)
        assert (one != other) == apart


def test_the_generation_limit_is_kept() -> None:
    server = knowing(a_match(0.9, generation=2))
    for limit, start in ((4, "cached_image"), (3, "cached_image"), (2, "noise")):
        reply = serve(server, circle("modm"), replace(CALIBRATED, max_generation=limit))
        assert reply.outcome.start == start
        assert reply.outcome.generation <= limit


def test_a_fetch_that_costs_more_than_it_saves_is_not_made_twice() -> None:
    """A step takes 0.08 ms here (2 ms for 25), a fetch of latents 30."""
    server = knowing(a_match(0.95, steps=STEPS), latents=ALL_LATENTS)

    async def scenario() -> list[Reply]:
        door = open_door(server, CALIBRATED)
        await door.serve(circle("vanilla"))
        server.cache.hanging = {"fetch"}
        waking = asyncio.create_task(wake_after(0.03, "fetch", server))
        replies = [await door.serve(circle("nirvana")) for _ in range(2)]
        await waking
        return replies

    first, second = run(scenario())
    assert (first.outcome.start, second.outcome.start) == ("cached_latents", "noise")
    assert second.outcome.miss == "declined"


def test_time_is_told_by_stage() -> None:
    server = knowing(a_match(0.85), hanging={"embed_text", "lookup", "fetch"})

    async def scenario() -> Reply:
        waking = asyncio.create_task(wake_after(0.02, "embed_text", server))
        reply = await open_door(server, CALIBRATED).serve(circle("modm"))
        await waking
        return reply

    timings = run(scenario()).outcome.timings_ms
    assert timings.embed >= 15
    assert timings.lookup > 0
    assert timings.fetch > 0
    stages = (timings.embed, timings.lookup, timings.fetch, timings.admission, timings.encode, timings.queue)
    # The fake says that denoising took 2 ms and queueing 1, but answers at once, so decoding makes up for it.
    assert sum(stages) + timings.denoise + timings.decode == pytest.approx(timings.total, abs=0.02)


def test_policies_that_need_nothing_ask_nobody() -> None:
    server = knowing(a_match(0.99))
    for policy in ("vanilla", "small", "random-mix"):
        assert serve(server, circle(policy)).outcome.miss is None
    assert server.cache.asked == []


def test_hits_and_misses_side_by_side_do_not_disturb_each_other() -> None:
    server = knowing(a_match(0.85, steps=STEPS), latents=ALL_LATENTS)
    policies = ["modm", "nirvana", "retrieval", "vanilla", "random-source"]

    async def scenario() -> list[Reply]:
        door = open_door(server, CALIBRATED, capacity=40)
        return await asyncio.gather(*(door.serve(circle(policy, seed=i)) for i in range(8) for policy in policies))

    replies = run(scenario())
    assert Counter(reply.outcome.start for reply in replies) == {"cached_image": 16, "cached_latents": 8, "noise": 16}
    assert [reply.outcome.policy for reply in replies] == policies * 8
    assert [reply.outcome.seed for reply in replies] == [i for i in range(8) for _ in policies]


# Misses -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["modm", "nirvana", "retrieval", "random-source"])
@pytest.mark.parametrize(("matches", "why"), [([], "empty"), ([a_match(0.5, steps=STEPS)], "declined")])
def test_what_is_new_is_painted_from_noise(policy: str, matches: list[Match], why: str) -> None:
    server = knowing(*matches)
    check_served_as_a_miss(server, serve(server, circle(policy)), why, warned=False)


@pytest.mark.parametrize("policy", ["modm", "nirvana", "retrieval"])
def test_an_entry_evicted_in_between_is_a_miss(policy: str) -> None:
    server = knowing(a_match(0.99, entry_id=8, steps=STEPS))
    check_served_as_a_miss(server, serve(server, circle(policy)), "gone", warned=False)
    assert "fetch" in server.cache.asked


@pytest.mark.parametrize("broken", ["embed_text", "lookup", "fetch"])
@pytest.mark.parametrize(
    "failure", [Unavailable("cache: no such model"), Internal("SQLite is locked"), KeyError("a defect of ours")]
)
@pytest.mark.parametrize("policy", ["modm", "nirvana", "retrieval"])
def test_a_cache_that_is_down_costs_nothing_but_a_miss(policy: str, broken: str, failure: Exception) -> None:
    server = knowing(a_match(0.99, steps=STEPS), latents=ALL_LATENTS, failures={broken: failure})
    check_served_as_a_miss(server, serve(server, circle(policy)), "unavailable", warned=True)
    assert len(server.cache.log) == 1


@pytest.mark.parametrize("slow", ["embed_text", "lookup", "fetch"])
@pytest.mark.parametrize("policy", ["modm", "nirvana", "retrieval"])
def test_a_cache_that_is_slow_is_not_waited_for(policy: str, slow: str) -> None:
    server = knowing(a_match(0.99, steps=STEPS), latents=ALL_LATENTS, hanging={slow})
    patience = Patience(embed_s=0.02, lookup_s=0.02, fetch_s=0.02)
    reply = serve(server, circle(policy), patience=patience)
    check_served_as_a_miss(server, reply, "slow", warned=True)
    assert "did not answer within 20 ms" in reply.outcome.warnings[0]


def test_where_painting_takes_long_the_cache_may_take_a_little_longer_too() -> None:
    patience = Patience(embed_s=1.0, lookup_s=0.1, fetch_s=0.5, share=0.05)
    assert patience.when_painting_takes(0.0) == patience
    assert patience.when_painting_takes(4.0) == replace(patience, lookup_s=0.2)
    assert patience.when_painting_takes(100.0) == replace(patience, embed_s=5.0, lookup_s=5.0, fetch_s=5.0, score_s=5.0)


def test_a_cache_that_hangs_is_left_alone_after_a_while_and_used_again_when_it_is_back() -> None:
    server = knowing(a_match(0.99), hanging={"lookup"})

    async def scenario() -> list[Reply]:
        door = open_door(server, CALIBRATED, capacity=100, patience=Patience(lookup_s=0.02))
        lost = await asyncio.gather(*(door.serve(circle("modm")) for _ in range(30)))
        assert Counter(server.cache.asked)["lookup"] == 8
        server.cache.hanging = set()
        server.cache.wake.set()
        await asyncio.sleep(0.01)
        assert (await door.serve(circle("modm"))).outcome.start == "cached_image"
        return lost

    assert {reply.outcome.miss for reply in run(scenario())} == {"slow"}
    assert len(server.cache.log) == 1  # one line says why


@pytest.mark.parametrize(
    "image",
    [np.zeros((4, 5, 3), np.uint8), np.zeros((4, 6), np.uint8), np.zeros((4, 6, 3), np.float64), LATENTS * np.nan],
)
def test_an_image_that_is_broken_is_a_miss(image: np.ndarray) -> None:
    server = knowing(a_match(0.99), images={1: image})
    check_served_as_a_miss(server, serve(server, circle("modm")), "broken", warned=True)


def test_latents_that_are_broken_are_a_miss() -> None:
    server = knowing(a_match(0.95, steps=STEPS), latents={(1, 12): LATENTS * np.nan})
    check_served_as_a_miss(server, serve(server, circle("nirvana")), "broken", warned=True)


@pytest.mark.parametrize(("policy", "model"), [("modm", "little_refine"), ("nirvana", "big_resume")])
def test_a_source_that_a_model_refuses_is_a_miss(policy: str, model: str) -> None:
    server = knowing(a_match(0.95, steps=STEPS), latents=ALL_LATENTS)
    server.refusals[model] = InvalidArgument(f"{model}: unexpected shape")
    reply = serve(server, circle(policy))
    assert [call.model for call in server.calls] == [model, "big"]
    check_served_as_a_miss(server, reply, "broken", warned=True)


@pytest.mark.parametrize(
    "refusal", [InvalidArgument("LoRA palette: base model: got 'big'"), NotFound("no palette"), Unavailable("too late")]
)
def test_where_the_small_variant_cannot_have_a_lora_the_large_one_paints(refusal: UnderpaintError) -> None:
    server = knowing(a_match(0.95))
    server.refusals["little_refine"] = refusal
    request = circle("modm", lora="palette", on_missing_lora="without")
    reply = run(door_for_loras(server).serve(request))
    assert [(call.model, call.parameters["on_missing_lora"]) for call in server.calls] == [
        ("little_refine", "fail"),
        ("big", "without"),
    ]
    check_served_as_a_miss(server, reply, "unfit", warned=False)


def test_what_lacks_a_lora_is_not_kept_as_if_it_had_it() -> None:
    server, kept = knowing(), {}
    for server.lora_steps in (0, -1):
        reply = run(door_for_loras(server).serve(circle("modm", lora="palette", on_missing_lora="without")))
        kept[reply.outcome.warnings] = reply.keepsake is not None
    assert kept == {(): True, ("lora: palette could not be had; painted without",): False}


def door_for_loras(server: FakeServer) -> FrontDoor:
    variants = {name: replace(each, loras=True) for name, each in DEPLOYMENT.variants.items()}
    deployment = replace(DEPLOYMENT, variants=variants)
    return FrontDoor(
        deployment, server, READERS, LIMITS, Settings.of(deployment, CALIBRATION), log=server.cache.log.append
    )


def test_an_error_of_a_model_on_the_way_from_a_source_is_the_callers() -> None:
    server = knowing(a_match(0.95))
    server.refusals["little_refine"] = Unavailable("little_refine: stub process is not healthy")
    with pytest.raises(Unavailable, match="not healthy"):
        serve(server, circle("modm"))


def test_a_hit_that_its_variant_cannot_do_is_a_miss(monkeypatch: pytest.MonkeyPatch) -> None:
    little = replace(DEPLOYMENT.variants["little"], max_inference_steps=20)
    monkeypatch.setitem(DEPLOYMENT.variants, "little", little)  # type: ignore[arg-type]
    server = knowing(a_match(0.95))
    outcome = serve(server, circle("modm", num_inference_steps=25)).outcome
    assert (outcome.miss, outcome.variant, outcome.num_inference_steps) == ("unfit", "big", 25)


def test_what_no_variant_can_do_is_still_refused() -> None:
    server = knowing(a_match(0.95))
    with pytest.raises(InvalidArgument, match="num_inference_steps"):
        serve(server, circle("modm", num_inference_steps=51))


def test_what_is_not_calibrated_never_hits_and_says_so() -> None:
    server = knowing(a_match(0.99))
    reply = serve(server, circle("modm"), Settings.of(DEPLOYMENT))
    check_served_as_a_miss(server, reply, "uncalibrated", warned=True)
    assert "there is no calibration.json" in reply.outcome.warnings[0]
    assert server.cache.asked == []


def test_a_policy_without_thresholds_is_not_calibrated() -> None:
    server = knowing(a_match(0.99))
    assert CALIBRATED.calibration is not None
    partly = replace(
        CALIBRATED, calibration=replace(CALIBRATED.calibration, modm=replace(CALIBRATED.calibration.modm, rows=()))
    )
    reply = serve(server, circle("modm"), partly)
    check_served_as_a_miss(server, reply, "uncalibrated", warned=True)
    assert "modm" in reply.outcome.warnings[0]


def test_lookups_that_would_be_in_vain_are_not_made() -> None:
    server = knowing()
    random = np.random.default_rng(0)
    topics = [f"popular topic {i}" for i in range(3)]

    async def scenario() -> FrontDoor:
        door = open_door(server, CALIBRATED)
        for i in range(600):
            popular = bool(random.random() < 0.5)
            server.cache.matches = [a_match(0.95)] if popular else []
            prompt = topics[random.integers(3)] if popular else f"something new {i}"
            reply = await door.serve(circle("nirvana", prompt=prompt, cache="read"))
            assert reply.outcome.start == "noise"
        return door

    tally = run(scenario()).tally
    assert tally.misses["nirvana", "predicted"] == tally.predicted_misses[()] > 100
    assert len(server.cache.lookups) == 600 - tally.predicted_misses[()]
    assert set(tally.guesses) <= {(a, b) for a in ("match", "none") for b in ("match", "none")}
    assert tally.guesses["none", "none"] > tally.guesses["none", "match"]


def test_the_match_predictor_can_be_switched_off() -> None:
    server = knowing()

    async def scenario() -> FrontDoor:
        door = open_door(server, replace(CALIBRATED, predict=False))
        for i in range(5):
            await door.serve(circle("nirvana", prompt=f"something new {i}"))
        return door

    tally = run(scenario()).tally
    assert not tally.guesses
    assert len(server.cache.lookups) == 5


# What the caller says of the cache ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "reads", "writes"),
    [
        ("readwrite", True, True),
        ("read", True, False),
        ("write", False, True),
        ("off", False, False),
        ("reproducible", False, True),
    ],
)
@pytest.mark.parametrize("policy", ["modm", "nirvana"])
def test_cache_modes(policy: str, mode: str, reads: bool, writes: bool) -> None:
    server = knowing(a_match(0.5))
    reply = serve(server, circle(policy, cache=mode))
    assert ("lookup" in server.cache.asked) == reads
    assert (reply.keepsake is not None) == writes
    assert reply.outcome.miss == ("declined" if reads else "off")
    assert reply.outcome.warnings == ()


def test_in_reproducible_mode_the_seed_alone_decides() -> None:
    server = knowing(a_match(0.99, steps=STEPS), latents=ALL_LATENTS)
    for policy in ("modm", "nirvana", "retrieval", "random-source", "random-mix", "small", "vanilla"):
        one, other = (serve(server, circle(policy, cache="reproducible")).outcome for _ in range(2))
        assert (
            (one.start, one.variant, one.seed) == (other.start, other.variant, other.seed) == ("noise", one.variant, 4)
        )
    assert "lookup" not in server.cache.asked


# Remembering --------------------------------------------------------------------------------------------------------


def remembered(server: FakeServer, *requests: GenerateRequest, settings: Settings = CALIBRATED) -> FrontDoor:
    async def scenario() -> FrontDoor:
        door = open_door(server, settings)
        for request in requests:
            door.remember(await door.serve(request))
            await door.drain(5.0)
        return door

    return run(scenario())


def test_nothing_is_remembered_before_the_answer_is_sent() -> None:
    server = knowing()

    async def scenario() -> None:
        door = open_door(server, CALIBRATED)
        reply = await door.serve(circle("modm"))
        await asyncio.sleep(0.02)
        assert not {"embed_image", "insert"} & set(server.cache.asked)
        door.remember(reply)
        assert server.cache.inserted == []  # not even now: it takes a while, and nobody waits
        await door.drain(5.0)
        assert len(server.cache.inserted) == 1

    run(scenario())


def test_modm_remembers_an_image() -> None:
    server = knowing()
    remembered(server, circle("modm", tenant="acme"))
    (kept,) = server.cache.inserted
    entry = kept.entry
    assert (entry["prompt"], entry["tenant"], entry["variant"], entry["seed"]) == ("a red circle", "acme", "big", 4)
    assert (entry["num_inference_steps"], entry["generation"], entry["source"]) == (25, 0, None)
    assert entry["image_scope"] == server.cache.lookups[0]["scope"]
    assert entry["image_scope"].startswith("acme/")
    assert (entry["latents_scope"], kept.latents) == (None, None)
    assert entry["metadata"]["policy"] == "modm"
    np.testing.assert_array_equal(np.unique(kept.image), [1])
    np.testing.assert_array_equal(kept.image_embedding, vector("image 1"))
    np.testing.assert_array_equal(kept.text_embedding, vector("a red circle"))
    assert Counter(server.cache.asked)["embed_text"] == 1  # the lookup's is good for the insert too


def test_nirvana_remembers_latents_as_well() -> None:
    server = knowing()
    remembered(server, circle("nirvana"))
    assert server.calls[0].inputs["capture_steps"].tolist() == [list(STEPS)]
    (kept,) = server.cache.inserted
    assert kept.latents is not None
    assert kept.latents.shape == (7, 2, 2, 3)
    assert kept.latents[:, 0, 0, 0].tolist() == list(STEPS) == list(kept.latents_steps)
    assert kept.entry["latents_scope"] == server.cache.lookups[0]["scope"]


def test_what_is_kept_is_what_will_be_found() -> None:
    """In the scopes under which a later request of the same kind looks."""
    server = knowing()
    remembered(server, circle("nirvana"), circle("modm"), circle("nirvana"))
    nirvana, modm, again = server.cache.inserted
    assert nirvana.entry["image_scope"] == modm.entry["image_scope"] == server.cache.lookups[1]["scope"]
    assert nirvana.entry["latents_scope"] == again.entry["latents_scope"] == server.cache.lookups[2]["scope"]


def test_an_image_made_from_another_remembers_its_source() -> None:
    server = knowing(a_match(0.65, entry_id=1, generation=1))
    remembered(server, circle("modm"))
    (kept,) = server.cache.inserted
    assert (kept.entry["variant"], kept.entry["generation"], kept.entry["source"]) == ("little", 2, 1)


def test_what_hardly_differs_from_its_source_is_not_kept() -> None:
    server = knowing(a_match(0.9))
    remembered(server, circle("modm"))
    assert server.cache.inserted == []


def test_finished_latents_are_kept_for_a_refiner_of_the_same_autoencoder() -> None:
    server = knowing()
    remembered(server, circle("modm"), settings=replace(CALIBRATED, autoencoders={"big": "vae", "little": "vae"}))
    (kept,) = server.cache.inserted
    assert kept.latents_steps == (25,) and kept.latents is not None and kept.latents.shape == (1, 2, 2, 3)
    assert kept.entry["latents_scope"] is None


def test_cache_large_forgets_what_the_small_variant_refined() -> None:
    server = knowing(a_match(0.65))
    remembered(server, circle("modm"), settings=replace(CALIBRATED, keep_small=False))
    assert server.cache.inserted == []


def test_what_was_written_only_is_embedded_in_the_background() -> None:
    server = knowing()
    remembered(server, circle("modm", cache="write"))
    assert server.cache.asked == ["embed_text", "embed_image", "insert"]
    np.testing.assert_array_equal(server.cache.inserted[0].text_embedding, vector("a red circle"))


def test_what_waits_together_is_inserted_together() -> None:
    server = knowing()

    async def scenario() -> None:
        door = open_door(server, CALIBRATED)
        requests = [circle("nirvana" if number % 3 else "modm", seed=number) for number in range(12)]
        for reply in [await door.serve(request) for request in requests]:
            door.remember(reply)
        await door.drain(5.0)

    run(scenario())
    assert sum(server.cache.inserts) == 12
    assert len(server.cache.inserts) == Counter(server.cache.asked)["embed_image"] < 12
    for number, kept in enumerate(server.cache.inserted):
        assert kept.entry["seed"] == number
        assert kept.latents_steps == (STEPS if number % 3 else ())
        np.testing.assert_array_equal(kept.image_embedding, vector(f"image {kept.image.flat[0]}"))


def test_images_wait_a_little_for_others() -> None:
    server = knowing()

    async def scenario() -> None:
        door = open_door(server, CALIBRATED)
        replies = [await door.serve(circle("modm", seed=number)) for number in range(3)]
        for reply in replies:
            door.remember(reply)
            await asyncio.sleep(0.02)  # long enough for an insert, were one made at once
        assert server.cache.inserts == []
        while not server.cache.inserts:
            await asyncio.sleep(0.01)

    run(scenario())
    assert server.cache.inserts == [3]


def test_as_many_as_make_an_insert_wait_for_nobody() -> None:
    server = knowing()

    async def scenario() -> None:
        tally, complaints = Tally(), Complaints(server.cache.log.append)
        embedders, cache = Embedders(server, bytes_of), CacheClient(server)
        scoring = Scoring(server, bytes_of, tally, complaints, patience_s=1.0)
        memory = Memory(scoring, embedders, cache, tally, complaints, Underway(60), together=2, company_s=3600.0)
        reply = await open_door(server, CALIBRATED).serve(circle("modm"))
        for _ in range(5):
            assert reply.keepsake is not None
            memory.remember(reply.keepsake)
        while tally.remembered["kept",] < 4:
            await asyncio.sleep(0)
        assert server.cache.inserts == [2, 2]
        await memory.drain(5.0)  # at the end nobody waits either

    run(scenario())
    assert server.cache.inserts == [2, 2, 1]


@pytest.mark.parametrize("broken", ["embed_image", "insert"])
@pytest.mark.parametrize("failure", [Unavailable("the disk is full"), KeyError("a defect of ours")])
def test_an_insert_that_fails_costs_a_log_line(broken: str, failure: Exception) -> None:
    server = knowing(failures={broken: failure})
    door = remembered(server, circle("modm"), circle("modm"))
    assert door.tally.remembered["failed",] == 2
    assert len(server.cache.log) == 1
    assert str(failure) in server.cache.log[0]


def test_what_fails_its_prompt_is_not_kept() -> None:
    server = knowing()
    server.scorers.scores["discriminator"] = 0.15
    door = remembered(server, circle("modm"), circle("modm"), circle("modm"))
    assert len(server.scorers.judged) == 3
    assert door.tally.remembered == {("kept",): 0, ("poor",): 3}
    assert server.cache.inserts == [] and "embed_image" not in server.cache.asked


def test_of_those_that_wait_together_each_is_judged_by_itself() -> None:
    server = knowing()
    server.scorers.scores["discriminator"] = 0.15

    async def scenario() -> None:
        door = open_door(server, CALIBRATED)
        first, second = [await door.serve(circle("modm", seed=number)) for number in range(2)]
        assert first.keepsake is not None
        door.remember(replace(first, keepsake=replace(first.keepsake, least_confidence=0.1)))
        door.remember(second)
        await door.drain(5.0)

    run(scenario())
    assert server.scorers.asked == ["discriminator"]  # both at once
    assert [kept.entry["seed"] for kept in server.cache.inserted] == [0]


def test_an_operator_may_keep_everything() -> None:
    server = knowing()
    server.scorers.scores["discriminator"] = 0.0
    remembered(server, circle("modm"), settings=replace(CALIBRATED, least_confidence=0.0))
    assert server.scorers.asked == []
    assert server.cache.inserts == [1]


def test_without_a_discriminator_everything_is_kept() -> None:
    server = knowing()

    async def scenario() -> None:
        door = FrontDoor(replace(DEPLOYMENT, discriminator=None), server, READERS, settings=CALIBRATED)
        door.remember(await door.serve(circle("modm")))
        await door.drain(5.0)

    run(scenario())
    assert server.scorers.asked == []
    assert server.cache.inserts == [1]


def test_a_discriminator_that_fails_costs_no_image() -> None:
    server = knowing()
    server.scorers.failures["discriminator"] = Unavailable("it is being reloaded")
    remembered(server, circle("modm"))
    assert server.cache.inserts == [1]
    assert "it is being reloaded" in server.cache.log[0]


def test_a_slow_cache_does_not_pile_up_images() -> None:
    server = knowing(hanging={"insert"})

    async def scenario() -> FrontDoor:
        door = open_door(server, CALIBRATED)
        reply = await door.serve(circle("modm"))
        for _ in range(200):
            door.remember(reply)
            await asyncio.sleep(0)
        assert (await door.serve(circle("modm"))).outcome.miss == "empty"  # nobody else suffers
        await door.drain(0.02)
        return door

    door = run(scenario())
    assert 100 < door.tally.remembered["queue full",] < 140
    assert server.cache.inserted == []


def test_without_embedders_nothing_is_remembered() -> None:
    server = knowing()
    bare = FrontDoor(replace(DEPLOYMENT, embedder=""), server, READERS, log=server.cache.log.append)
    reply = run(bare.serve(circle("nirvana")))
    assert reply.keepsake is None
    assert reply.outcome.miss == "uncalibrated"
    assert "capture_steps" not in server.calls[0].inputs


# Metrics and settings -----------------------------------------------------------------------------------------------


def test_hits_misses_and_steps_are_counted() -> None:
    server = knowing(a_match(0.85))

    async def scenario() -> FrontDoor:
        door = open_door(server, CALIBRATED)
        for policy in ("modm", "modm", "nirvana", "vanilla"):
            await door.serve(circle(policy))
        server.cache.failures["lookup"] = Unavailable("cache: no such model")
        await door.serve(circle("modm"))
        return door

    tally = run(scenario()).tally
    assert tally.requests == {("modm",): 3, ("nirvana",): 1, ("vanilla",): 1}
    assert tally.hits == {("modm", "6"): 2}
    assert tally.misses == {("nirvana", "declined"): 1, ("modm", "unavailable"): 1}
    assert tally.steps_skipped["modm", "little"] == 12
    assert tally.steps_run == {
        ("modm", "little"): 8,
        ("nirvana", "big"): 25,
        ("vanilla", "big"): 25,
        ("modm", "big"): 25,
    }


EASED = replace(CALIBRATED, calibration=replace(CALIBRATION, hard={"modm": 0.5}))


def test_what_is_new_but_easy_is_painted_by_the_small_variant_in_the_size_of_the_large_one() -> None:
    other_size = replace(DEPLOYMENT.variant("little"), sizes=((9, 9), (6, 4)))
    deployment = replace(DEPLOYMENT, variants={**DEPLOYMENT.variants, "little": other_size})
    server = knowing(a_match(0.5), along=True)
    door = FrontDoor(deployment, server, READERS, LIMITS, EASED, log=server.cache.log.append)
    reply = run(door.serve(circle("modm")))
    (call,) = server.calls
    assert call.model == "little" and (call.inputs["width"].item(), call.inputs["height"].item()) == (6, 4)
    assert "fetch" not in server.cache.asked and server.scorers.asked == ["router"]
    outcome = reply.outcome
    assert (outcome.start, outcome.variant, outcome.miss, outcome.source) == ("noise", "little", "easy", None)
    assert (outcome.steps_run, outcome.steps_skipped, outcome.generation, outcome.warnings) == (10, 0, 0, ())
    assert (outcome.router_score, outcome.confidence, outcome.escalated) == (0.2, None, False)
    assert reply.keepsake is not None and door.tally.misses["modm", "easy"] == 1


def test_a_hit_asks_no_scorer() -> None:
    server = knowing(a_match(0.85))
    assert run(open_door(server, EASED).serve(circle("modm"))).outcome.source is not None
    assert server.scorers.asked == []


@pytest.mark.parametrize("trouble", ["hard", "down", "slow"])
def test_without_the_router_s_leave_the_large_variant_paints(trouble: str) -> None:
    server = knowing()
    server.scorers.scores["router"] = 0.5
    server.scorers.failures |= {"router": Unavailable("it is being reloaded")} if trouble == "down" else {}
    server.scorers.hanging |= {"router"} if trouble == "slow" else set()
    reply = run(open_door(server, EASED, patience=Patience(score_s=0.05)).serve(circle("modm")))
    assert [call.model for call in server.calls] == ["big"]
    assert (reply.outcome.miss, reply.outcome.escalated) == ("empty", False)


def test_a_small_variant_that_fails_at_what_is_easy_is_replaced_by_the_large_one() -> None:
    server = knowing()
    server.refusals["little"] = Unavailable("little: stub process is not healthy")
    outcome = run(open_door(server, EASED).serve(circle("modm"))).outcome
    assert [call.model for call in server.calls] == ["little", "big"]
    assert (outcome.variant, outcome.miss, outcome.fallback) == ("big", "unfit", None)


def test_what_is_easy_but_not_for_the_small_variant_is_a_miss() -> None:
    server, request = knowing(a_match(0.5)), circle("modm", num_inference_steps=40)
    few = replace(DEPLOYMENT.variant("little"), max_inference_steps=20)
    deployment = replace(DEPLOYMENT, variants={**DEPLOYMENT.variants, "little": few})
    door = FrontDoor(deployment, server, READERS, LIMITS, EASED, log=server.cache.log.append)
    outcome = run(door.serve(request)).outcome
    assert (outcome.variant, outcome.miss, outcome.steps_run) == ("big", "unfit", 40)


def test_a_share_of_the_hits_is_painted_in_full_as_well() -> None:
    server = knowing(a_match(0.85))

    async def scenario(share: float) -> FrontDoor:
        door = open_door(server, replace(CALIBRATED, shadow_share=share))
        for policy in ("modm", "vanilla"):
            door.remember(await door.serve(circle(policy, deadline_ms=60_000)))
        for _ in range(200):
            await asyncio.sleep(0)
        return door

    assert run(scenario(0.0)).tally.shadows == {}
    before = len(server.calls)
    tally = run(scenario(1.0)).tally
    hit, plain, full = server.calls[before:]
    assert [call.model for call in (hit, plain, full)] == ["little_refine", "big", "big"]
    assert full.inputs["seed"].item() == 4
    text = vector("a red circle")
    expected = [round(float(text @ vector(f"image {number}")), 4) for number in (before + 1, before + 3)]
    assert tally.shadows == {("modm",): 1}
    assert [tally.shadow_agreement["modm", start] for start in ("cache", "noise")] == pytest.approx(expected)


def test_a_shadow_that_fails_costs_a_log_line() -> None:
    server = knowing(a_match(0.85), failures={"embed_image": Internal("no")})

    async def scenario() -> FrontDoor:
        door = open_door(server, replace(CALIBRATED, shadow_share=1.0))
        door.remember(await door.serve(circle("modm")))
        for _ in range(200):
            await asyncio.sleep(0)
        return door

    assert run(scenario()).tally.shadows == {} and server.cache.log == ["shadow: no"]


def test_new_settings_hold_from_the_next_request_on() -> None:
    server = knowing(a_match(0.85))

    async def scenario() -> list[str]:
        door = open_door(server)
        before = await door.serve(circle("modm"))
        door.adopt(Traffic(Release(DEPLOYMENT, CALIBRATED)))
        after = await door.serve(circle("modm"))
        return [before.outcome.start, after.outcome.start]

    assert run(scenario()) == ["noise", "cached_image"]
