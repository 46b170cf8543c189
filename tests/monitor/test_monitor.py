"""The loop over servers that are made up, with real allocators and a published profile."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from underpaint.control import allocators
from underpaint.control.allocation import Allocation, Allocator, Fleet, Load
from underpaint.control.profile import Latency, Profile, VariantProfile
from underpaint.errors import InvalidArgument, Unavailable
from underpaint.front_door.tally import SCORE_EDGES
from underpaint.monitor.decision import settings_of
from underpaint.monitor.instances import Instances
from underpaint.monitor.journal import Decision, Journal, State
from underpaint.monitor.metrics import Sample
from underpaint.monitor.monitor import STATE, Monitor, Plan, Server
from underpaint.monitor.readings import Reading
from underpaint.monitor.scores import CONFIDENCE, DIFFICULTY, Scores
from underpaint.monitor.settings import SettingsFile
from underpaint.policies import Settings

PROFILE = Profile(
    "two",
    (VariantProfile("little", 4, (Latency(1, 0.1),), loss=1.0), VariantProfile("big", 8, (Latency(1, 1.0),), loss=0.0)),
    shared=True,
)
FLEET = Fleet(devices=1, slo_s=10.0, period_s=1.0)


class Fixed(Allocator):
    """Gives its answers one after the other, and keeps what it was told."""

    name = "fixed"

    def __init__(self, *answers: Allocation) -> None:
        self._answers: Iterator[Allocation] = iter(answers)
        self.told: list[tuple[Load, Allocation | None]] = []

    def allocate(self, load: Load, profile: Profile, fleet: Fleet, present: Allocation | None = None) -> Allocation:
        self.told.append((load, present))
        return next(self._answers)


class FakeEndpoint:
    """Shows one sample after the other; an exception is raised."""

    url = "http://fake/metrics"

    def __init__(self, *shown: Sample | Exception) -> None:
        self._shown = iter(shown)

    def fetch(self, within_s: float) -> Sample:
        each = next(self._shown)
        if isinstance(each, Exception):
            raise each
        return each

    def close(self) -> None:
        pass


def cascade(direct: float = 0.1, deferred: float = 0.4, **more: Any) -> Allocation:
    return Allocation("hadis", "little", "big", {"little": 0.5, "big": 0.5}, {}, direct, deferred, **more)


def seen(at: float, arrivals: float = 0.0, **more: str) -> Sample:
    text = f'underpaint_door_arrivals_total{{policy="hadis"}} {arrivals}\n' + "".join(more.values())
    return Sample.parse(text, at)


def monitor(store: Path, allocator: Allocator, *endpoints: FakeEndpoint, dry_run: bool = False) -> Monitor:
    servers = [Server(endpoint) for endpoint in endpoints]  # type: ignore[arg-type]
    return Monitor(servers, [store], Plan(allocator, PROFILE, FLEET, dry_run=dry_run), Journal(store / "log.jsonl"))


def notes(store: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (store / "log.jsonl").read_text().splitlines()]


def test_arrivals_become_settings(tmp_path: Path) -> None:
    allocator = Fixed(cascade(), cascade())
    watching = monitor(tmp_path, allocator, FakeEndpoint(seen(0.0, 5), seen(2.0, 25), seen(4.0, 45)))
    assert watching.step() is None  # nothing to compare with yet
    decision = watching.step()
    assert isinstance(decision, Decision) and (decision.counted, decision.arrivals_per_s) == (20, 10.0)
    assert (decision.changed, decision.applied) == (True, True)
    in_force = SettingsFile(tmp_path).read()
    assert (in_force["policy"], in_force["defer_share"], in_force["hard_share"]) == ("hadis", 0.4, 0.1)
    again = watching.step()
    assert again is not None and not again.changed
    assert [present for _, present in allocator.told] == [None, cascade()]
    assert [note["arrivals_per_s"] for note in notes(tmp_path)] == [10.0, 10.0]


def test_what_it_decides_front_doors_understand(tmp_path: Path) -> None:
    names = set(settings_of(cascade(shares={"little": 1.0}), Scores(), 0.5))
    assert names <= set(Settings.__dataclass_fields__)


def test_a_dry_run_changes_nothing(tmp_path: Path) -> None:
    watching = monitor(tmp_path, Fixed(cascade()), FakeEndpoint(seen(0.0), seen(1.0)), dry_run=True)
    watching.step()
    decision = watching.step()
    assert decision is not None and decision.changed and not decision.applied
    assert not (tmp_path / "settings.json").exists() and not (tmp_path / STATE).exists()


def test_a_server_that_is_silent_does_not_silence_the_others(tmp_path: Path) -> None:
    dead = FakeEndpoint(*[Unavailable("no answer")] * 3)
    watching = monitor(tmp_path, Fixed(cascade()), FakeEndpoint(seen(0.0), seen(1.0, 3)), dead)
    watching.step()
    decision = watching.step()
    assert decision is not None and (decision.counted, decision.servers, decision.silent) == (3, 1, ("no answer",))


def test_where_all_are_silent_nothing_is_decided(tmp_path: Path) -> None:
    watching = monitor(tmp_path, Fixed(), FakeEndpoint(*[Unavailable("no answer")] * 2))
    assert watching.step() is None and watching.step() is None
    assert not (tmp_path / "settings.json").exists()


def test_a_new_monitor_goes_on_where_the_last_one_was(tmp_path: Path) -> None:
    first = monitor(tmp_path, Fixed(cascade()), FakeEndpoint(seen(0.0), seen(1.0)))
    first.step(), first.step()
    allocator = Fixed(cascade())
    second = monitor(tmp_path, allocator, FakeEndpoint(seen(0.0), seen(1.0)))
    second.step(), second.step()
    assert allocator.told[0][1] == cascade()


@pytest.mark.parametrize("text", ["", "{", '{"allocation": {"policy": "x"}}', '{"allocation": 3}'])
def test_a_state_that_makes_no_sense_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / STATE).write_text(text)
    assert State.load(tmp_path / STATE) is None


def test_what_others_decided_stays(tmp_path: Path) -> None:
    (tmp_path / "settings.json").write_text('{"max_generation": 2, "confidence_threshold": 0.9}')
    assert SettingsFile(tmp_path).write({"policy": "modm", "confidence_threshold": None})
    assert SettingsFile(tmp_path).read() == {"max_generation": 2, "policy": "modm"}
    assert not SettingsFile(tmp_path).write({"policy": "modm"})


def test_settings_that_make_no_sense_are_left_alone_and_said_so(tmp_path: Path) -> None:
    (tmp_path / "settings.json").write_text("[]")
    watching = monitor(tmp_path, Fixed(cascade()), FakeEndpoint(seen(0.0), seen(1.0)))
    watching.step()
    decision = watching.step()
    assert decision is not None and not decision.applied and "settings.json" in decision.problems[0]
    assert (tmp_path / "settings.json").read_text() == "[]"


def test_demand_of_zero_and_far_above_capacity_have_answers(tmp_path: Path) -> None:
    watching = monitor(tmp_path, allocators.by_name("proteus"), FakeEndpoint(seen(0.0), seen(1.0), seen(2.0, 1e6)))
    watching.step()
    idle, flooded = watching.step(), watching.step()
    assert idle is not None and idle.arrivals_per_s == 0
    assert flooded is not None and not flooded.allocation.feasible


# Scores ---------------------------------------------------------------------------------------------------------


def histogram(name: str, scores: Sequence[float], model: str = "generate") -> str:
    edges = [*(f"{edge:.4g}" for edge in SCORE_EDGES), "+Inf"]
    return "".join(
        f'underpaint_door_scores_total{{score="{name}",le="{edge}",model="{model}"}} '
        f"{sum(score <= float(edge) for score in scores)}\n"
        for edge in edges
    )


def test_thresholds_follow_the_scores_that_were_seen() -> None:
    scores = Scores()
    assert scores.threshold(CONFIDENCE, 0.5) is None
    values = [number / 400 for number in range(400)]
    text = histogram(CONFIDENCE, values) + histogram(CONFIDENCE, values, "generate_stream")
    scores.learn(Sample.parse(text, 1.0))
    for share in (0.1, 0.3, 0.7):
        assert scores.threshold(CONFIDENCE, share) == pytest.approx(share, abs=0.05)
    assert scores.threshold(DIFFICULTY, 0.5) is None
    settings = settings_of(cascade(deferred=0.3), scores, 0.5)
    assert settings["confidence_threshold"] == pytest.approx(0.3, abs=0.05) and settings["router_threshold"] is None
    assert settings_of(cascade(deferred=1.0), scores, 0.5)["confidence_threshold"] is None


def test_scores_survive_the_monitor() -> None:
    scores, restored = Scores(), Scores()
    scores.learn(Sample.parse(histogram(DIFFICULTY, [0.2] * 300), 1.0))
    restored.restore(json.loads(json.dumps(scores.to_json())))
    assert restored.threshold(DIFFICULTY, 0.5) == scores.threshold(DIFFICULTY, 0.5)


# Readings -------------------------------------------------------------------------------------------------------


def test_readings_tell_queues_and_reuse() -> None:
    text = (
        'underpaint_denoiser_running{model="big_denoiser"} 2\nunderpaint_denoiser_waiting{model="big_denoiser"} 4\n'
        'underpaint_door_requests_total{policy="modm"} 10\nunderpaint_door_hits_total{policy="modm"} 5\n'
        'underpaint_door_steps_run_total{policy="modm"} 75\nunderpaint_door_steps_skipped_total{policy="modm"} 25\n'
    )
    reading = Reading.of(Sample.parse(text, 9.0), Sample.parse(text, 2.0))
    load = Reading.together([reading, reading]).load(arrivals_per_s=3.0)
    assert load.wait_s("big") == 4.0 and load.wait_s("little") == 0.0
    assert (load.reuse.hit_rate, load.reuse.left) == (0.5, pytest.approx(0.5))


def test_what_is_easy_is_work_of_the_small_variant() -> None:
    """A hit that skips nothing, for those who decide who paints; other misses are not."""
    text = (
        'underpaint_door_requests_total{policy="modm"} 10\nunderpaint_door_hits_total{policy="modm"} 2\n'
        'underpaint_door_misses_total{policy="modm",reason="easy"} 3\n'
        'underpaint_door_misses_total{policy="modm",reason="empty"} 5\n'
        'underpaint_door_steps_run_total{policy="modm"} 80\nunderpaint_door_steps_skipped_total{policy="modm"} 20\n'
    )
    reuse = Reading.of(Sample.parse(text, 9.0), Sample.parse(text, 2.0)).reuse()
    assert (reuse.hit_rate, reuse.left) == (0.5, pytest.approx(0.6))


# Instances ------------------------------------------------------------------------------------------------------


class FakeControl:
    """A server's models and their instances; ``refuses`` does not load with more than one."""

    def __init__(self, refuses: str = "", **counts: int) -> None:
        self.counts = counts
        self._refuses = refuses

    def config(self, model: str) -> dict[str, Any]:
        return {"name": model, "instance_group": [{"kind": "KIND_CPU", "count": self.counts[model]}]}

    def load(self, model: str, timeout_s: float, config: dict[str, Any] | None = None) -> None:
        assert config is not None
        count = config["instance_group"][0]["count"]
        if model == self._refuses and count > 1:
            raise Unavailable("out of memory")
        self.counts[model] = count


def test_instances_move_and_never_fall_to_none() -> None:
    control = FakeControl(little_unet=1, big_unet=3)
    Instances(control).apply({"little": 4, "big": 0})
    assert control.counts == {"little_unet": 4, "big_unet": 1}


def test_a_model_that_does_not_load_takes_everything_back() -> None:
    control = FakeControl(refuses="big_unet", little_unet=1, big_unet=1)
    with pytest.raises(Unavailable, match="out of memory"):
        Instances(control).apply({"little": 3, "big": 2})
    assert control.counts == {"little_unet": 1, "big_unet": 1}


def test_servers_without_models_of_that_name_are_said_so() -> None:
    class Deaf(FakeControl):
        def config(self, model: str) -> dict[str, Any]:
            raise OSError("connection refused")

    with pytest.raises(Unavailable, match="connection refused"):
        Instances(Deaf()).apply({"little": 2})


def test_an_unknown_allocator_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="hadis"):
        allocators.by_name("magic")
