"""Two versions side by side, from what the front doors counted while both served."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from underpaint.front_door.trial import quantile
from underpaint.monitor.metrics import Sample

_PREFIX = "underpaint_door_trial"


@dataclass(frozen=True)
class Measured:
    """What one version did. Seconds are of answered requests; ``quality``: the discriminator's mean of ``judged``.

    nan stands for what was not measured.
    """

    version: int
    requests: int
    failures: int
    p50_s: float
    p95_s: float
    quality: float
    judged: int


@dataclass(frozen=True)
class Comparison:
    """``percent``: asked for; ``routed``: the share that the candidate was really given, its failures included."""

    family: str
    candidate: int
    percent: float
    measured: tuple[Measured, ...]

    @property
    def routed(self) -> float:
        given = {each.version: each.requests + each.failures for each in self.measured}
        total = sum(each.requests for each in self.measured)
        return 100 * given.get(self.candidate, 0) / total if total else math.nan

    def lines(self) -> list[str]:
        """For people."""
        total = sum(each.requests for each in self.measured)
        head = f"{self.family}: version {self.candidate} on trial, asked {self.percent:g}%"
        rows = [f"{head}, routed {self.routed:.1f}% of {total} requests" if total else f"{head}, no requests yet"]
        rows += [f"{'version':>8} {'answered':>9} {'failed':>7} {'p50 ms':>8} {'p95 ms':>8}  quality"]
        for each in self.measured:
            quality = f"{each.quality:.3f} of {each.judged}" if each.judged else "not judged"
            times = " ".join(f"{'-' if math.isnan(s) else round(s * 1e3):>8}" for s in (each.p50_s, each.p95_s))
            rows.append(f"{each.version:>8} {each.requests:>9} {each.failures:>7} {times}  {quality}")
        return [*rows, self._next()]

    def _next(self) -> str:
        stable = self.measured[0].version
        if self.percent < 100:
            return f"next: another share (start), all of it (promote), or back to version {stable} (abort)"
        return (
            f"next: back to version {stable} (abort), or, once the servers are stopped, make {self.candidate} the "
            "family's own (finish); until then both stay loaded, also over a restart"
        )


def compare(family: str, candidate: int, percent: float, stable: int, samples: Iterable[Sample]) -> Comparison:
    """What several servers measured, together."""
    counted = list(samples)
    return Comparison(
        family, candidate, percent, tuple(_measured(counted, candidate, version) for version in (stable, candidate))
    )


def _measured(samples: list[Sample], candidate: int, version: int) -> Measured:
    labels = {"candidate": str(candidate), "version": str(version)}
    judged = _count(samples, "judged", labels)
    latencies: Counter[str] = Counter()
    for sample in samples:
        for named, value in sample.values.get(f"{_PREFIX}_latencies_total", {}).items():
            if labels.items() <= dict(named).items():
                latencies[dict(named)["le"]] += int(value)
    return Measured(
        version=version,
        requests=int(_count(samples, "requests", labels)),
        failures=int(_count(samples, "failures", labels)),
        p50_s=quantile(latencies, 0.5),
        p95_s=quantile(latencies, 0.95),
        quality=_count(samples, "confidences", labels) / judged if judged else math.nan,
        judged=int(judged),
    )


def _count(samples: list[Sample], name: str, labels: dict[str, str]) -> float:
    return sum(
        value
        for sample in samples
        for named, value in sample.values.get(f"{_PREFIX}_{name}_total", {}).items()
        if labels.items() <= dict(named).items()
    )
