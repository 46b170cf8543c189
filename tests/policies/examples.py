"""Plain values for tests of policies."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from underpaint.evidence import Evidence, Match, Measured
from underpaint.policies import Calibration, Settings, Thresholds, modm, nirvana
from underpaint.requests import GenerateRequest

CALIBRATION = Calibration(
    embedder="e",
    small="s",
    large="l",
    alpha=0.98,
    modm=modm.PUBLISHED,
    nirvana=nirvana.PUBLISHED,
    retrieval=Thresholds.of((0.9, 1.0)),
)
UNCALIBRATED = Settings(small="tiny-s", large="tiny-l", default_steps={"tiny-s": 10, "tiny-l": 25, "other": 40})
SETTINGS = Settings(
    small="tiny-s", large="tiny-l", default_steps=UNCALIBRATED.default_steps, calibration=CALIBRATION, small_share=0.3
)


def a_match(similarity: float, **changes: Any) -> Match:
    values = {"entry_id": 1, "prompt": "a disc", "variant": "tiny-l", "seed": 1, **changes}
    return Match(similarity=similarity, **values)


def found(*matches: Match, **changes: Any) -> Evidence:
    return Evidence(in_flight=1, matches=matches, **changes)


SIMILARITIES = st.floats(-1, 1) | st.sampled_from([0.25, 0.3, 0.65, 0.9, 0.95, 1.0])
MATCHES = st.builds(
    Match,
    entry_id=st.integers(1, 10**9),
    similarity=SIMILARITIES,
    prompt=st.just("a disc"),
    variant=st.sampled_from(["tiny-s", "tiny-l", "no longer deployed"]),
    seed=st.integers(0, 2**63 - 1),
    generation=st.integers(0, 9),
    steps=st.lists(st.integers(1, 60), unique=True, max_size=6).map(lambda steps: tuple(sorted(steps))),
)
EVIDENCE = st.builds(
    Evidence,
    in_flight=st.integers(1, 1000),
    time_left_s=st.none() | st.floats(-10, 1000),
    measured=st.builds(
        Measured,
        step_ms=st.dictionaries(st.sampled_from(["tiny-s", "tiny-l"]), st.floats(0.01, 1e4)),
        fetch_ms=st.none() | st.floats(0, 1e4),
    ),
    matches=st.lists(MATCHES, max_size=8).map(lambda m: tuple(sorted(m, key=lambda match: -match.similarity))),
    stranger=st.none() | MATCHES,
    router_score=st.none() | st.floats(0, 1),
)
REQUESTS = st.builds(
    GenerateRequest,
    prompt=st.sampled_from(["a circle", "größer 赤"]),
    num_inference_steps=st.none() | st.integers(1, 200),
    seed=st.none() | st.integers(0, 2**63 - 1),
    variant=st.none() | st.sampled_from(["tiny-s", "tiny-l", "other"]),
)
