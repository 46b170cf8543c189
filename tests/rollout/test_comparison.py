"""Two versions compared by what the front doors' counters say."""

from __future__ import annotations

import math
import re
from collections import Counter

import pytest

from underpaint.front_door.trial import LATENCY_EDGES, quantile
from underpaint.monitor.metrics import Sample
from underpaint.rollout.comparison import compare


def cumulative(*seconds: float) -> Counter[str]:
    edges = {f"{edge:.4g}": sum(s <= edge for s in seconds) for edge in LATENCY_EDGES}
    return Counter({**edges, "+Inf": len(seconds)})


def test_quantiles_are_as_fine_as_the_edges() -> None:
    counts = cumulative(*(0.1 * n for n in range(1, 101)))
    for share in (0.1, 0.5, 0.95):
        assert quantile(counts, share) == pytest.approx(10 * share, rel=0.13)
    assert math.isnan(quantile(Counter(), 0.5))
    assert quantile(cumulative(1e9), 0.5) == LATENCY_EDGES[-1]


def metrics(version: int, requests: int, failures: int, seconds: float, quality: float) -> str:
    labels = f'candidate="2",version="{version}"'
    name = "underpaint_door_trial"
    lines = [
        f'{name}_requests_total{{model="generate",{labels}}} {requests}',
        f'{name}_failures_total{{model="generate",{labels}}} {failures}',
        f'{name}_judged_total{{model="generate",{labels}}} {requests}',
        f'{name}_confidences_total{{model="generate",{labels}}} {requests * quality}',
    ]
    counts = cumulative(*[seconds] * requests)
    lines += [f'{name}_latencies_total{{{labels},le="{le}"}} {count}' for le, count in counts.items()]
    return "\n".join(lines) + "\n"


def test_servers_are_summed_and_other_rollouts_left_out() -> None:
    text = metrics(1, 60, 0, 0.2, 0.9) + metrics(2, 20, 2, 0.4, 0.7)
    text += text.replace('candidate="2"', 'candidate="7"')
    samples = [Sample.parse(text, 0.0), Sample.parse(metrics(1, 40, 0, 0.2, 0.9), 0.0)]
    found = compare("tiny", 2, 20, stable=1, samples=samples)
    stable, candidate = found.measured
    assert (stable.version, stable.requests, stable.failures) == (1, 100, 0)
    assert (candidate.version, candidate.requests, candidate.failures) == (2, 20, 2)
    assert stable.p50_s == pytest.approx(0.2, rel=0.15)
    assert candidate.p95_s == pytest.approx(0.4, rel=0.15)
    assert (stable.quality, candidate.quality) == (pytest.approx(0.9), pytest.approx(0.7))
    assert found.routed == pytest.approx(100 * 22 / 120)
    assert "asked 20%, routed 18.3% of 120 requests" in found.lines()[0]


def test_before_any_request_nothing_is_claimed() -> None:
    found = compare("tiny", 2, 20, stable=1, samples=[Sample.parse("", 0.0)])
    assert math.isnan(found.routed)
    assert "no requests yet" in found.lines()[0]
    assert found.lines()[-2].split() == ["2", "0", "0", "-", "-", "not", "judged"]


@pytest.mark.parametrize(
    ("percent", "told"),
    [
        (20, "next: another share (start), all of it (promote), or back to version 1 (abort)"),
        (
            100,
            "next: back to version 1 (abort), or, once the servers are stopped, make 2 the family's own (finish); .*",
        ),
    ],
)
def test_what_comes_next_is_said(percent: float, told: str) -> None:
    line = compare("tiny", 2, percent, stable=1, samples=[]).lines()[-1]
    assert re.fullmatch(re.escape(told).replace(r"\.\*", ".*") + ".*", line), line
