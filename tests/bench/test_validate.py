"""``underpaint bench simulator``: what it asks for, and how it compares."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from underpaint.bench.validate import Trial, compare, simulated_s, trials
from underpaint.bench.validate_cli import text
from underpaint.cli import main
from underpaint.control.profile import Latency, Profile, VariantProfile
from underpaint.errors import InvalidArgument

SMALL = VariantProfile("s", 4, (Latency(1, 0.1), Latency(4, 0.2)))
LARGE = VariantProfile("l", 10, (Latency(1, 0.5), Latency(4, 1.0)))
PROFILE = Profile("p", (SMALL, LARGE), shared=True, step_batching=True)


def test_loads_are_shares_of_what_the_server_can_do() -> None:
    assert Trial("s", {"s": 1.0}, 0.5).rate_per_s(PROFILE) == pytest.approx(10)
    assert Trial("both", {"s": 0.5, "l": 0.5}, 0.6).rate_per_s(PROFILE) == pytest.approx(0.6 / 0.15)
    assert [each.name for each in trials(PROFILE, [0.3])] == ["s", "l", "half s, half l"]
    for load in (0.0, 1.0):
        with pytest.raises(InvalidArgument, match="loads"):
            trials(PROFILE, [load])


def test_the_same_seed_asks_for_the_same() -> None:
    trial = Trial("both", {"s": 0.5, "l": 0.5}, 0.5)
    arrivals, whose = trial.arrivals(PROFILE, 60, seed=1)
    assert (arrivals, whose) == trial.arrivals(PROFILE, 60, seed=1)
    assert arrivals == sorted(arrivals) and len(arrivals) == pytest.approx(200, abs=60)
    assert np.mean([each == "s" for each in whose]) == pytest.approx(0.5, abs=0.15)


def test_simulated_requests_are_painted_by_whom_they_insist_on() -> None:
    assert simulated_s(PROFILE, [0.0, 5.0, 10.0], ["s", "l", "s"]) == pytest.approx([0.1, 0.5, 0.1])
    together = simulated_s(PROFILE, [0.0, 0.0], ["s", "l"])  # each has half of the machine until the small one is done
    assert together == pytest.approx([0.2, 0.6])


def test_errors_are_shares_of_what_was_served() -> None:
    found = compare(Trial("s", {"s": 1.0}, 0.5), [1.0] * 10, [1.2] * 10)
    assert found.errors == pytest.approx({50: 0.2, 95: 0.2})
    assert "+20%" in text([found])


def test_bad_options_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    PROFILE.save(tmp_path / "p.json")
    for option, value, named in (("--loads", "2", "loads"), ("--loads", "x", "loads"), ("--seconds", "0", "seconds")):
        assert main(["bench", "simulator", "--profile", str(tmp_path / "p.json"), option, value]) == 2
        assert named in capsys.readouterr().err
    assert main(["bench", "simulator", "--profile", str(tmp_path / "none.json")]) == 2
    assert "none.json" in capsys.readouterr().err
