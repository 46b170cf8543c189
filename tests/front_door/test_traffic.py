"""Two versions behind one front door: each request is served by one of them, and none is lost by the newer one."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.front_door.fake_cache import FakeCache
from tests.front_door.fake_server import CALIBRATED, DEPLOYMENT, FakeServer, open_door, run
from underpaint.deployment import file_name
from underpaint.errors import Cancelled, InvalidArgument, Unavailable
from underpaint.evidence import Reuse
from underpaint.front_door.door import FrontDoor
from underpaint.front_door.reply import Reply
from underpaint.front_door.scopes import scope_of
from underpaint.front_door.traffic import Release, Traffic
from underpaint.front_door.traffic_files import TrafficFiles
from underpaint.policies import Settings
from underpaint.releases import FILE_NAME, Rollout
from underpaint.requests import GenerateRequest

ROLLOUT = Rollout("two", 2, 40)
NEWER = replace(DEPLOYMENT, version=2)
STABLE, CANDIDATE = Release(DEPLOYMENT, CALIBRATED), Release(NEWER, Settings.of(NEWER))
TRAFFIC = Traffic.of(STABLE, CANDIDATE, ROLLOUT)
SEEDS = range(40)
CHOSEN = {seed for seed in SEEDS if ROLLOUT.takes(GenerateRequest("a circle", seed=seed))}


def door_of(server: FakeServer, traffic: Traffic = TRAFFIC, **limits: Any) -> FrontDoor:
    door = open_door(server, CALIBRATED, **limits)
    door.adopt(traffic)
    return door


async def serve_all(door: FrontDoor, **wishes: Any) -> list[Reply]:
    return [await door.serve(GenerateRequest("a circle", seed=seed, **wishes)) for seed in SEEDS]


def test_a_seed_decides_who_paints() -> None:
    server = FakeServer()
    door = door_of(server)
    replies = run(serve_all(door))
    assert {reply.outcome.seed for reply in replies if reply.outcome.version == 2} == CHOSEN
    assert 0 < len(CHOSEN) < len(SEEDS)
    painters = {call.inputs["seed"].item(): call.model for call in server.calls}
    assert painters == {seed: "big@2" if seed in CHOSEN else "big" for seed in SEEDS}
    assert {reply.outcome.variant for reply in replies} == {"big"}
    tally = door.tally
    assert tally.trial_requests == {("2", "2"): len(CHOSEN), ("2", "1"): len(SEEDS) - len(CHOSEN)}
    assert tally.trial_latencies["2", "2", "+Inf"] == len(CHOSEN)
    assert not tally.trial_failures


def test_without_a_rollout_nothing_is_on_trial() -> None:
    server = FakeServer()
    door = door_of(server, Traffic(STABLE))
    replies = run(serve_all(door))
    assert {reply.outcome.version for reply in replies} == {1}
    assert {call.model for call in server.calls} == {"big"}
    assert not door.tally.trial_requests
    assert all(reply.exhibit is None for reply in replies)


def test_a_rollout_to_what_serves_is_over() -> None:
    assert Traffic.of(CANDIDATE, CANDIDATE, ROLLOUT) == Traffic(CANDIDATE)


@pytest.mark.parametrize("failure", [Unavailable("its model is not ready"), InvalidArgument("unexpected shape")])
def test_what_the_candidate_cannot_do_the_other_version_does(failure: Exception) -> None:
    server = FakeServer(refusals={"big@2": failure})  # type: ignore[dict-item]
    door = door_of(server)
    replies = run(serve_all(door))
    assert {reply.outcome.version for reply in replies} == {1}
    assert door.tally.trial_failures == {("2", "2"): len(CHOSEN)}
    assert door.tally.trial_requests == {("2", "1"): len(SEEDS) - len(CHOSEN)}


def test_what_neither_version_can_do_is_not_held_against_the_candidate() -> None:
    refused = InvalidArgument("no such thing")
    server = FakeServer(refusals={"big@2": refused, "big": refused})
    door = door_of(server)
    with pytest.raises(InvalidArgument):
        run(door.serve(GenerateRequest("a circle", seed=min(CHOSEN))))
    assert not door.tally.trial_failures


def test_a_request_that_is_withdrawn_is_not_painted_again() -> None:
    server = FakeServer(slow=frozenset({"big@2"}))

    async def test() -> None:
        door = door_of(server)
        under_way = asyncio.create_task(door.serve(GenerateRequest("a", seed=min(CHOSEN), request_id="mine")))
        await server.until_painting(1)
        assert door.in_flight_by_release() == {"@2": 1}
        await door.cancel("mine")
        with pytest.raises(Cancelled):
            await under_way

    run(test())
    assert server.cancelled() == [("big@2", "mine")]
    assert [call.model for call in server.calls] == ["big@2"]


def test_pictures_of_both_are_judged_once_their_callers_have_them() -> None:
    server = FakeServer()

    async def test() -> FrontDoor:
        door = door_of(server)
        for number, reply in enumerate(await serve_all(door), start=1):
            door.remember(reply)
            while door.tally.trial_judged.total() < number:
                await asyncio.sleep(0)
        return door

    tally = run(test()).tally
    assert tally.trial_judged == {("2", "2"): len(CHOSEN), ("2", "1"): len(SEEDS) - len(CHOSEN)}
    given = server.scorers.scores["discriminator"]
    assert tally.trial_confidences["2", "2"] == pytest.approx(given * len(CHOSEN), abs=1e-3 * len(CHOSEN))


@pytest.mark.parametrize("reuse", Reuse)
def test_nothing_is_passed_on_from_one_version_to_the_other(reuse: Reuse) -> None:
    request = GenerateRequest("a circle", seed=1)
    sampling = DEPLOYMENT.sampling(request, DEPLOYMENT.variant("big"))
    keys = {scope_of(reuse, each, "big", request, sampling) for each in (DEPLOYMENT, NEWER)}
    assert len(keys) == 2


def test_a_version_without_a_calibration_reuses_nothing() -> None:
    cache = FakeCache()
    weightless = {name: replace(each, weights="new") for name, each in NEWER.variants.items()}
    unmeasured = replace(NEWER, variants=weightless)
    traffic = Traffic.of(STABLE, Release(unmeasured, Settings.of(unmeasured, CALIBRATED.calibration)), ROLLOUT)
    reply = run(door_of(FakeServer(cache=cache), traffic).serve(GenerateRequest("a", seed=min(CHOSEN), policy="modm")))
    assert (reply.outcome.version, reply.outcome.miss) == (2, "uncalibrated")


# Files --------------------------------------------------------------------------------------------------------------


def test_files_say_who_serves(tmp_path: Path) -> None:
    door, store = tmp_path / "door", tmp_path / "store"
    door.mkdir()
    store.mkdir()
    (door / file_name()).write_text(DEPLOYMENT.to_json())
    files = TrafficFiles(door, store)
    assert files.read() == Traffic(Release(DEPLOYMENT, Settings.of(DEPLOYMENT)))
    assert not files.changed()

    (store / FILE_NAME).write_text(ROLLOUT.to_json())
    assert files.changed()
    assert files.read().candidate is None  # nobody has told this server what version 2 is

    (door / file_name(2)).write_text(NEWER.to_json())
    assert files.changed()
    begun = files.read()
    assert (begun.candidate and begun.candidate.version, begun.rollout) == (2, ROLLOUT)
    assert begun.candidate is not None
    assert begun.candidate.painters == ["big@2", "little@2"]

    (door / file_name()).write_text(NEWER.to_json())
    assert files.changed()
    assert files.read() == Traffic(Release(NEWER, Settings.of(NEWER)))


def test_a_rollout_of_another_family_in_the_same_store_is_not_ours(tmp_path: Path) -> None:
    (tmp_path / file_name()).write_text(DEPLOYMENT.to_json())
    (tmp_path / file_name(2)).write_text(NEWER.to_json())
    (tmp_path / FILE_NAME).write_text(replace(ROLLOUT, family="other").to_json())
    assert TrafficFiles(tmp_path, tmp_path).read().candidate is None
