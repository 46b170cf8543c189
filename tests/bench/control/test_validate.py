"""``underpaint bench simulator``: what it asks for, and how it compares."""

from __future__ import annotations

from pathlib import Path

import pytest

from underpaint.bench.control.validate import Trial, compare, simulated_s, trials
from underpaint.bench.control.validate_cli import text
from underpaint.bench.demand.open_loop import Reply
from underpaint.bench.demand.served import Account
from underpaint.cli import main
from underpaint.control.profile import Costs, Latency, Profile, VariantProfile
from underpaint.errors import InvalidArgument
from underpaint.policies import Settings

SMALL = VariantProfile("s", 4, (Latency(1, 0.1, cpu_s=0.1), Latency(4, 0.2, cpu_s=0.1)))
LARGE = VariantProfile("l", 10, (Latency(1, 0.5, cpu_s=0.5), Latency(4, 1.0, cpu_s=0.5)))
PROFILE = Profile("p", (SMALL, LARGE), Costs(router_s=0.01, discriminator_s=0.02), shared=True, cores=2)
SETTINGS = Settings("s", "l", default_steps={"s": 4, "l": 10}, confidence_threshold=0.5, router_threshold=0.8)


def reply(
    index: int, confidence: float | None = None, router_score: float | None = None, latency_s: float = 1.0
) -> Reply:
    account = Account("s", "noise", 4, 4, 1.0, confidence=confidence, router_score=router_score)
    return Reply(index, 0.0, 0.0, latency_s, account=account)


def test_loads_are_shares_of_what_the_server_can_do() -> None:
    assert Trial("small", 0.5).rate_per_s(PROFILE, SETTINGS) == pytest.approx(0.5 * 20)
    assert Trial("vanilla", 0.5).rate_per_s(PROFILE, SETTINGS) == pytest.approx(0.5 * 4)
    assert Trial("diffserve", 0.5).rate_per_s(PROFILE, SETTINGS) == pytest.approx(0.5 / (1 / 20 + 0.3 / 4))
    assert Trial("hadis", 0.5).rate_per_s(PROFILE, SETTINGS) == pytest.approx(0.5 / (0.9 / 20 + 0.37 / 4))
    assert [each.load for each in trials(["small"], [0.3, 0.6])] == [0.3, 0.6]
    for load in (0.0, 1.0):
        with pytest.raises(InvalidArgument, match="loads"):
            trials(["small"], [load])
    with pytest.raises(InvalidArgument, match="policies"):
        trials(["modm"], [0.5])  # what it does depends on a cache, which the simulator has not


def test_the_same_seed_asks_for_the_same() -> None:
    arrivals = Trial("small", 0.5).arrivals_s(10, 60, seed=1)
    assert arrivals == Trial("small", 0.5).arrivals_s(10, 60, seed=1)
    assert arrivals == sorted(arrivals) and len(arrivals) == pytest.approx(600, abs=80)


def test_simulated_requests_have_the_scores_that_served_ones_had() -> None:
    judged = [reply(0, confidence=0.9), reply(1, confidence=0.1), reply(2)]  # the last: nobody answered in time
    found = simulated_s(PROFILE, "diffserve", SETTINGS, [0.0, 5.0, 10.0], judged)
    assert found == pytest.approx([0.12, 0.62, 0.12])
    routed = [reply(0, confidence=0.9, router_score=0.2), reply(1, router_score=0.9)]
    assert simulated_s(PROFILE, "hadis", SETTINGS, [0.0, 5.0], routed) == pytest.approx([0.13, 0.51])
    assert simulated_s(PROFILE, "vanilla", SETTINGS, [0.0], [reply(0)]) == pytest.approx([0.5])


def test_errors_are_shares_of_what_was_served() -> None:
    replies = [reply(number, latency_s=1.0) for number in range(10)]
    found = compare(Trial("small", 0.5), 2.0, replies, [1.2] * 10)
    assert found.errors == pytest.approx({50: 0.2, 90: 0.2, 99: 0.2})
    assert "+20%" in text([found])


def test_bad_options_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    PROFILE.save(tmp_path / "p.json")
    bad = (
        ("--loads", "2", "loads"),
        ("--loads", "x", "loads"),
        ("--seconds", "0", "seconds"),
        ("--policies", "x", "x"),
    )
    for option, value, named in bad:
        assert main(["bench", "simulator", "--profile", str(tmp_path / "p.json"), option, value]) == 2
        assert named in capsys.readouterr().err
    assert main(["bench", "simulator", "--profile", str(tmp_path / "none.json")]) == 2
    assert "none.json" in capsys.readouterr().err
