"""Who asks for what is being painted already."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.front_door.fake_cache import LATENTS, FakeCache, a_match, bytes_of
from tests.front_door.fake_server import CALIBRATED, CALIBRATION, DEPLOYMENT, FakeServer, open_door, run
from underpaint.errors import Unavailable
from underpaint.front_door.cache_client import CacheClient
from underpaint.front_door.complaints import Complaints
from underpaint.front_door.embedders import Embedders
from underpaint.front_door.memory import Memory
from underpaint.front_door.reply import Reply
from underpaint.front_door.scoring import Scoring
from underpaint.front_door.tally import Tally
from underpaint.front_door.underway import Underway
from underpaint.policies import Settings, Thresholds
from underpaint.requests import GenerateRequest

MODM = GenerateRequest.parse({"prompt": "a red circle", "policy": "modm"})
HERE, THERE = np.eye(2, dtype=np.float32)
BY_WORDS = Settings.of(DEPLOYMENT, replace(CALIBRATION, modm_text=Thresholds.of((0.9, 0.8), (0.5, 0.2))))


def test_one_waits_for_the_nearest_of_a_scope_until_it_has_ended() -> None:
    async def scenario() -> None:
        underway = Underway(forget_after_s=60)
        underway.begin("a", ("s",), HERE)
        underway.begin("b", ("s", "t"), THERE)
        waiting = asyncio.create_task(underway.wait("s", HERE, 0.9, 5.0))
        await asyncio.sleep(0)
        underway.end("b")
        await asyncio.sleep(0.01)
        assert not waiting.done()
        underway.end("a")
        underway.end("a")
        assert await waiting
        assert not await underway.wait("s", HERE, 0.9, 5.0)

    run(scenario())


@pytest.mark.parametrize(
    ("scope", "embedding", "within_s"), [("u", HERE, 5.0), ("s", THERE, 5.0), ("s", HERE, 0.0), ("s", HERE, 0.005)]
)
def test_one_does_not_wait_for_strangers_nor_for_ever(scope: str, embedding: np.ndarray, within_s: float) -> None:
    async def scenario() -> bool:
        underway = Underway(forget_after_s=60)
        underway.begin("a", ("s",), HERE)
        return await asyncio.wait_for(underway.wait(scope, embedding, 0.9, within_s), 1.0)

    assert not run(scenario())


def test_what_nobody_ended_is_forgotten() -> None:
    async def scenario() -> bool:
        underway = Underway(forget_after_s=0.0)
        underway.begin("a", ("s",), HERE)
        await asyncio.sleep(0.001)
        return await underway.wait("s", HERE, 0.9, 5.0)

    assert not run(scenario())


# At the door --------------------------------------------------------------------------------------------------------


class Twice:
    """A door at which the same is asked for twice; the first is being painted, and takes as long as it is told to."""

    def __init__(self, policy: str, settings: Settings, step_ms: float = 400.0) -> None:
        self.server = FakeServer(slow=frozenset({"big"}), cache=FakeCache())
        self.door, self._policy = open_door(self.server, settings), policy
        self.door._costs.step("big", step_ms, work_s=0.0)

    async def begin(self, **wishes: Any) -> None:
        self.first = self._ask("first")
        await self.server.until_painting(1)
        self.second = self._ask("second", **wishes)
        await asyncio.sleep(0.02)

    async def painted(self) -> Reply:
        self.server.finish("first")
        reply = await self.first
        await asyncio.sleep(0.02)
        return reply

    def kept(self, first: Reply) -> None:
        cache = self.server.cache
        cache.matches, cache.latents = [a_match(0.99, steps=(2, 12))], {(1, 12): LATENTS}
        self.door.remember(first)

    @property
    def lookups(self) -> int:
        return self.server.cache.asked.count("lookup")

    def _ask(self, request_id: str, **wishes: Any) -> asyncio.Task[Reply]:
        asked = {"prompt": "a red circle", "policy": self._policy, "request_id": request_id, **wishes}
        return asyncio.create_task(self.door.serve(GenerateRequest.parse(asked)))


@pytest.mark.parametrize(("policy", "settings"), [("modm-text", BY_WORDS), ("modm", BY_WORDS), ("nirvana", CALIBRATED)])
def test_the_second_waits_until_the_first_is_in_the_cache(policy: str, settings: Settings) -> None:
    async def scenario() -> Reply:
        twice = Twice(policy, settings)
        await twice.begin()
        assert twice.lookups == 1  # the first one's
        first = await twice.painted()
        assert twice.lookups == 1  # it has been painted, but not stored
        twice.kept(first)
        return await twice.second

    outcome = run(scenario()).outcome
    assert outcome.source is not None
    assert outcome.timings_ms.awaited > 20 and outcome.timings_ms.lookup < 20


@pytest.mark.parametrize("remembered_first", [False, True])
def test_what_is_waited_for_waits_for_no_others_on_its_way_into_the_cache(remembered_first: bool) -> None:
    async def scenario() -> None:
        cache, complaints = FakeCache(), Complaints(lambda line: None)
        server, underway = FakeServer(cache=cache), Underway(forget_after_s=60)
        embedders, client = Embedders(server, bytes_of), CacheClient(server)
        scoring = Scoring(server, bytes_of, Tally(), complaints, patience_s=1.0)
        memory = Memory(scoring, embedders, client, Tally(), complaints, underway, company_s=3600.0)
        keepsake = (await open_door(server, CALIBRATED).serve(MODM)).keepsake
        assert keepsake is not None
        underway.begin(keepsake.request_id, ("s",), HERE)
        if remembered_first:
            memory.remember(keepsake)
            await asyncio.sleep(0.01)
        waiting = asyncio.create_task(underway.wait("s", HERE, 0.9, 60.0))
        await asyncio.sleep(0.01)
        assert not waiting.done() or remembered_first
        if not remembered_first:
            memory.remember(keepsake)
        assert await waiting
        assert cache.inserts == [1]

    run(scenario())


def test_where_the_first_fails_the_second_goes_on() -> None:
    async def scenario() -> Reply:
        twice = Twice("nirvana", CALIBRATED)
        await twice.begin()
        twice.first.cancel()
        await twice.server.until_painting(1)
        await asyncio.sleep(0.02)
        assert "second" in twice.server.painting
        twice.server.finish("second")
        return await twice.second

    assert run(scenario()).outcome.miss == "empty"


@pytest.mark.parametrize("broken", ["insert", "embed_image"])
def test_where_the_first_cannot_be_kept_the_second_goes_on(broken: str) -> None:
    async def scenario() -> Reply:
        twice = Twice("nirvana", CALIBRATED)
        twice.server.cache.failures[broken] = Unavailable("the disk is full")
        await twice.begin()
        twice.door.remember(await twice.painted())
        await twice.server.until_painting(1)
        twice.server.finish("second")
        return await twice.second

    assert run(scenario()).outcome.miss == "empty"


@pytest.mark.parametrize(
    ("step_ms", "wishes"),
    [
        (0.0, {}),  # nobody knows how long it takes
        (400.0, {"deadline_ms": 10_000}),  # painting takes as long
        (400.0, {"cache": "write"}),
        (400.0, {"tenant": "another"}),
        (400.0, {"prompt": "a blue square"}),
        (400.0, {"guidance_scale": 2.0}),  # whose latents are of no use to it
    ],
)
def test_who_cannot_gain_does_not_wait(step_ms: float, wishes: dict[str, Any]) -> None:
    async def scenario() -> list[str]:
        twice = Twice("nirvana", CALIBRATED, step_ms)
        await twice.begin(**wishes)
        painting = twice.server.painting
        for request_id in ("first", "second"):
            twice.server.finish(request_id)
        await asyncio.gather(twice.first, twice.second)
        return painting

    assert run(scenario()) == ["first", "second"]


def test_nobody_waits_longer_than_painting_takes() -> None:
    async def scenario() -> Reply:
        twice = Twice("nirvana", CALIBRATED, step_ms=2.0)  # 50 ms
        await twice.begin()
        await twice.server.until_painting(2)
        for request_id in ("first", "second"):
            twice.server.finish(request_id)
        return await twice.second

    assert run(scenario()).outcome.timings_ms.awaited >= 49
