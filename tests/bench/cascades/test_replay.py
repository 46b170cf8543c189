"""The open loop against servers that are slow, full or dead, and what is made of its replies."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.bench.fakes import account
from tests.monitor.test_monitor import PROFILE
from underpaint.bench.cascades import replay_plot, replay_report
from underpaint.bench.cascades.contenders import Control, contenders, on_stage
from underpaint.bench.cascades.replay import Objective, Replay, Yardstick, course, summarise
from underpaint.bench.cascades.replay_quality import Split, Worth, violations_of_front
from underpaint.bench.cascades.replaying import Order, replay_all
from underpaint.bench.common.machine import Machine
from underpaint.bench.common.report import write_json
from underpaint.bench.demand.open_loop import UNANSWERED, Reply, open_loop
from underpaint.bench.demand.served import Account
from underpaint.bench.demand.traces import Schedule
from underpaint.bench.serving.site import Site
from underpaint.errors import InvalidArgument, Unavailable
from underpaint.monitor.settings import SettingsFile

YARDSTICK = Yardstick(sustained_per_s=10.0, unloaded_s=1.0)


def reply(index: int, due_s: float, latency_s: float, trouble: str = "") -> Reply:
    return Reply(index, due_s, due_s + 0.001, due_s + latency_s, trouble, None if trouble else account())


def ran(arrivals_s: list[float], takes_s: float, drain_s: float = 5.0) -> list[Reply]:
    async def send(index: int) -> Account:
        await asyncio.sleep(takes_s)
        return account()

    replies: list[Reply] = []
    asyncio.run(open_loop(arrivals_s, send, drain_s, replies))
    return sorted(replies, key=lambda each: each.index)


def test_sending_does_not_wait_for_answers() -> None:
    """Forty requests within 40 ms to a server that needs 300 ms each: all are under way before the first answer."""
    replies = ran([i / 1000 for i in range(40)], takes_s=0.3)
    assert all(each.answered for each in replies)
    assert max(each.sent_s for each in replies) < min(each.ended_s for each in replies)


def test_latency_counts_from_when_a_request_was_due() -> None:
    """A server that holds up the generator itself hides nothing."""

    async def send(index: int) -> Account:
        if index == 0:
            time.sleep(0.2)  # nobody else gets a turn meanwhile
        return account()

    replies: list[Reply] = []
    asyncio.run(open_loop([0.0, 0.05], send, 1.0, replies))
    late = next(each for each in replies if each.index == 1)
    assert late.sent_s - late.due_s > 0.1 and late.latency_s > 0.1


def test_who_gets_no_answer_is_unanswered() -> None:
    replies = ran([0.0, 0.01], takes_s=60.0, drain_s=0.05)
    assert [each.trouble for each in replies] == [UNANSWERED] * 2
    assert not any(each.answered for each in replies)


def test_errors_are_kept_by_name() -> None:
    async def send(index: int) -> Account:
        raise Unavailable("full")

    replies: list[Reply] = []
    asyncio.run(open_loop([0.0], send, 1.0, replies))
    assert replies[0].trouble == "Unavailable"


def test_an_interruption_keeps_what_is_known() -> None:
    replies: list[Reply] = []

    async def send(index: int) -> Account:
        if index == 2:
            signal.raise_signal(signal.SIGINT)
        return account()

    with pytest.raises(KeyboardInterrupt):
        asyncio.run(open_loop([0.0, 0.01, 0.02, 0.03], send, 1.0, replies))
    assert {each.index for each in replies} >= {0, 1}


def test_a_run_counts_everybody() -> None:
    replies = [
        reply(0, 0.0, 0.5),
        reply(1, 1.0, 3.0),
        reply(2, 2.0, 9.0),
        reply(3, 3.0, 0.1, "Unavailable"),
        reply(4, 4.0, 20.0, UNANSWERED),
    ]
    run = summarise("modm", 0, replies, seconds=10.0, yardstick=YARDSTICK)
    assert (run.requests, run.answered, run.failed, run.unanswered) == (5, 3, 1, 1)
    assert run.objectives == (Objective(2.0, 1 / 5, 0.1, 4), Objective(4.0, 2 / 5, 0.2, 3))
    assert run.latency_p50_s == 6.0  # of 0.5, 3, 9 and the 20 that one has waited in vain
    assert run.lag_p99_s == pytest.approx(0.001)


def test_a_run_without_answers_has_no_latency() -> None:
    run = summarise("modm", 0, [reply(0, 0.0, 0.1, "Unavailable")], 10.0, YARDSTICK)
    assert np.isnan(run.latency_p99_s) and run.objectives[0].attainment == 0


def test_the_course_is_by_when_requests_were_due() -> None:
    replies = [reply(i, i * 0.1, 1.0 if i < 50 else 8.0) for i in range(100)]
    own = course(replies, runs=2, seconds=10.0, limit_s=2.0, windows=10)
    assert own.offered_per_s == pytest.approx([5.0] * 10)
    assert own.attainment.tolist() == [1.0] * 5 + [0.0] * 5
    assert own.latency_p50_s[[0, -1]].tolist() == [1.0, 8.0]
    assert np.isnan(course(replies, 2, 1000.0, 2.0).attainment[-1])


def test_a_replay_is_written(tmp_path: Path) -> None:
    plan = Schedule(5.0, (4.0, 15.0))
    replay = Replay(YARDSTICK)
    for policy, latency_s in (("vanilla", 3.0), ("modm", 0.4)):
        for seed in range(2):
            replies = [reply(n, due, latency_s + n / 100) for n, due in enumerate(plan.arrivals_s(seed))]
            replay.replies[policy, seed] = replies
            replay.runs.append(summarise(policy, seed, replies, plan.seconds, YARDSTICK))
    record = replay_report.Record(replay, plan, {"peak": 1.5}, Machine("cpu", 2, "Linux", 0.0))
    write_json(record.to_json(), tmp_path / "replay.json")
    replay_plot.plot(record, tmp_path)
    written = json.loads((tmp_path / "replay.json").read_text())
    assert written["policies"]["modm"]["slo_attainment_2x"] == 1.0
    assert written["policies"]["vanilla"]["slo_attainment_2x"] == 0.0
    assert written["policies"]["vanilla"]["spread"]["requests"]["least"] > 50 and written["complete"]
    assert len(written["policies"]["modm"]["runs"]) == 2
    assert (tmp_path / "replay.png").stat().st_size > 10_000
    assert "goodput" in replay_report.text(replay, {"modm": Worth(0.5, 0.75, None)})


def test_who_runs() -> None:
    control = Control(PROFILE)
    entered = contenders(["vanilla", "hadis"], [0.0, 0.5], control)
    assert [(each.name, each.policy, each.allocator) for each in entered] == [
        ("vanilla", "vanilla", None),
        ("hadis", None, "hadis"),
        ("static 0.00", "random-mix", None),
        ("static 0.50", "random-mix", None),
    ]
    assert [each.allocator for each in contenders(["hadis"], [], None)] == [None]
    with pytest.raises(InvalidArgument, match="static"):
        contenders([], [1.5], None)


def test_settings_last_as_long_as_a_run(tmp_path: Path) -> None:
    here = Site("localhost:1", "http://127.0.0.1:2", "http://127.0.0.1:1/metrics", tmp_path, dict)
    (split,) = contenders([], [0.25], None)
    with on_stage(split, here, None, 1.0, wait=lambda seconds: None):
        assert SettingsFile(tmp_path).read() == {"small_share": 0.25}
    assert SettingsFile(tmp_path).read() == {}
    with pytest.raises(InvalidArgument, match="url"), on_stage(split, None, None, 1.0):
        pass


def test_the_front_of_static_splits() -> None:
    """Violations fall and so does accuracy, the more the small variant paints."""
    front = [Split(0.0, 0.4, 0.9), Split(0.5, 0.2, 0.7), Split(1.0, 0.0, 0.5)]
    assert violations_of_front(front, 0.8) == pytest.approx(0.3)
    assert violations_of_front(front, 0.5) == 0.0 and violations_of_front(front, 0.3) == 0.0
    assert violations_of_front(front, 0.95) is None
    # A split that is dominated does not lift the front.
    assert violations_of_front([*front, Split(0.4, 0.9, 0.71)], 0.8) == pytest.approx(0.3)


def test_every_policy_gets_the_same_arrivals(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, int, int]] = []

    async def run_one(
        visit: Any, arrivals_s: list[float], order: Order, replies: list[Reply], pictures: list[Any]
    ) -> None:
        policy, seed = visit.contender.policy, visit.seed
        seen.append((policy, seed, len(arrivals_s)))
        if (policy, seed) == ("modm", 1):
            raise KeyboardInterrupt
        replies += [reply(index, due_s, 0.5) for index, due_s in enumerate(arrivals_s)]

    monkeypatch.setattr("underpaint.bench.cascades.replaying._run_one", run_one)
    order = Order(contenders(("vanilla", "modm"), (), None), peak=1.5, seconds=10.0, seeds=3)
    replay = replay_all("nowhere:1", order, Schedule(5.0, (4.0, 8.0)), YARDSTICK)
    assert [each[:2] for each in seen] == [("vanilla", 0), ("modm", 0), ("vanilla", 1), ("modm", 1)]
    assert seen[0][2] == seen[1][2] != seen[2][2] == seen[3][2]
    assert replay.cut_short == "interrupted" and len(replay.runs) == 3
    assert len(replay.replies_of("modm")) == seen[1][2]
