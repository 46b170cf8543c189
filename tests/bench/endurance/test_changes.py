"""Changes under load, against a server that is a function."""

from __future__ import annotations

import time

import pytest

from underpaint.bench.endurance.changes import (
    INSTANCES,
    SHARES,
    Answer,
    Load,
    change_instances,
    change_settings,
    settings_acted_s,
)
from underpaint.errors import Unavailable

SLUGGISH_S = 0.05


class Server:
    """Goes by a decision ``SLUGGISH_S`` after it was made."""

    def __init__(self) -> None:
        self.decided: list[tuple[float, float]] = [(0.0, 0.0)]
        self.asked = 0

    def decide(self, share: float) -> None:
        self.decided.append((time.monotonic() + SLUGGISH_S, share))

    def ask(self, number: int) -> str:
        self.asked += 1
        time.sleep(0.002)
        share = [share for from_s, share in self.decided if from_s <= time.monotonic()][-1]
        return "small" if share else "large"


def test_settings_act_after_a_while_and_lose_nothing() -> None:
    server = Server()
    load = Load(server.ask, workers=3)
    with load.running():
        changes = change_settings(load, server.decide, ("small", "large"), 4 * SLUGGISH_S, time.sleep)
    assert len(changes) == len(SHARES) and not load.failures and len(load.answers) == server.asked
    assert all(0.5 * SLUGGISH_S < change.acts_s < 3 * SLUGGISH_S for change in changes)


def test_settings_that_never_act() -> None:
    answers = [Answer(t, t + 0.1, "large") for t in range(10)]
    with pytest.raises(Unavailable, match="did not bring all requests to small"):
        settings_acted_s(answers, 2.0, 10.0, "small")
    assert settings_acted_s([*answers, Answer(9.5, 9.6, "small")], 2.0, 10.0, "small") == 7.0


def test_failures_are_counted_and_end_nothing() -> None:
    def ask(number: int) -> str:
        if number == 3:
            raise Unavailable("gone")
        time.sleep(0.001)
        return "large"

    load = Load(ask, workers=2)
    counts: list[int] = []
    with load.running():
        changes = change_instances(load, counts.append, "large", 0.02, time.sleep)
    assert counts == list(INSTANCES) == [int(change.what.split()[0]) for change in changes]
    assert load.failures == ["Unavailable: gone"] and len(load.answers) > 10
