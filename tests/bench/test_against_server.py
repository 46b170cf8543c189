"""The benches against a real server: a few requests each, to see that what they ask for is what it answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.bench.fakes import FakeEmbedder
from underpaint.bench.calibration.campaign import Campaign, Plan
from underpaint.bench.cascades.contenders import contenders
from underpaint.bench.cascades.replay import Yardstick
from underpaint.bench.cascades.replay_quality import judge_replay
from underpaint.bench.cascades.replaying import Order as ReplayOrder
from underpaint.bench.cascades.replaying import replay_all
from underpaint.bench.common.machine import Machine
from underpaint.bench.demand.traces import Schedule
from underpaint.bench.judging.quality import Embedder
from underpaint.bench.judging.scores import Scores
from underpaint.bench.policies import report
from underpaint.bench.policies.arena import Arena, Order, entrants
from underpaint.bench.policies.contest import Pace
from underpaint.bench.serving.studio import Studio
from underpaint.client.transport import connect

pytestmark = pytest.mark.server
REPOSITORY = Path(__file__).resolve().parents[2] / "model_repository"
PACE = Pace(concurrency=4, slice_rounds=3, pair_rounds=1, pair_s=0.1)


def test_policies(server: Any, tmp_path: Path) -> None:
    arena = Arena.open(REPOSITORY)
    entered = tuple(entrants(["vanilla", "small"], []))
    match = arena.play(Order(entered, requests=12, seed=0, warm=0, pace=PACE, url=server.grpc_url))
    record = report.Record(match, {e.name: e for e in entered}, {"concurrency": 4}, Machine.here(0.01))
    report.write(record, tmp_path)
    written = json.loads((tmp_path / "results.json").read_text())
    vanilla, small = written["policies"]["vanilla"], written["policies"]["small"]
    assert written["complete"] and vanilla["images"] == small["images"] == 12
    assert vanilla["accuracy"] > 0.3  # neither noise nor blanks
    assert small["compute_ratio"] < 1 and small["throughput_ratio"] > 0
    assert (tmp_path / "small_sheet.png").is_file()


def test_calibration(server: Any) -> None:
    arena = Arena.open(REPOSITORY)
    small, large = (arena.deployment.variant(name) for name in (arena.deployment.small, arena.deployment.large))
    plan = Plan(2, 2, 0, small.refinement_steps, large.num_inference_steps)
    transport = connect(server.grpc_url)
    embedder: Embedder = arena.embedder or FakeEmbedder()
    scorers = Scores(REPOSITORY, arena.deployment.family)
    campaign = Campaign(plan, Studio(transport, arena.deployment), embedder, scorers)
    assert campaign.paint()
    transport.close()
    requests = campaign.requests()
    pairs = campaign.pairs(requests)
    assert len(requests.full) == len(requests.small_confidence) == len(requests.difficulty) == 4
    assert len(pairs["modm"][0].by_skip) == len(plan.refine_skips)
    assert len(pairs["nirvana"][0].by_skip) == len(plan.resume_steps)
    # Resumed from its own K, or refined a little, a picture is still a picture.
    assert max(pairs["nirvana"][0].by_skip.values()) > 0.3


def test_replay(server: Any) -> None:
    order = ReplayOrder(contenders(["small"], [], None), peak=1.0, seconds=2.0, seeds=1, warm=2)
    replay = replay_all(server.grpc_url, order, Schedule(1.0, (2.0, 3.0)), Yardstick(3.0, 5.0))
    (run,) = replay.runs
    assert run.requests > 0 and run.answered == run.requests and run.failed == run.unanswered == 0
    assert run.latency_p50_s > 0
    assert len(replay.pictures["small", 0]) == run.requests and judge_replay(replay, None)["small"].attributes > 0.3
