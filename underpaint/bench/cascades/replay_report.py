"""What ``underpaint bench replay`` leaves behind: a table, a JSON report, and plots over the time of the trace."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

import numpy as np

from underpaint.bench.cascades.contenders import Contender
from underpaint.bench.cascades.replay import OBJECTIVES, Replay, Run, Spread
from underpaint.bench.cascades.replay_quality import Split, Worth, static_front, violation_rate, violations_of_front
from underpaint.bench.common.machine import Machine
from underpaint.bench.common.report import rounded, table
from underpaint.bench.demand.traces import Schedule

_COLUMNS = (
    *("policy", "requests", "answered", "failed", "unanswered", "p50 s", "p99 s"),
    *(f"within {times}×" for times in OBJECTIVES),
    *(f"goodput/s {times}×" for times in OBJECTIVES),
    *("all right", "hits", "lag p99 ms"),
)


@dataclass(frozen=True, eq=False)
class Record:
    """One run. ``asked``: what it was asked to do."""

    replay: Replay
    schedule: Schedule
    asked: Mapping[str, Any]
    machine: Machine
    contenders: Sequence[Contender] = ()
    worth: Mapping[str, Worth] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Means over the seeds, what they range over, and every run."""
        return {
            "policies": {policy: self._policy(policy) for policy in self.replay.policies},
            "static_front": [rounded(asdict(split)) for split in self._front()],
            "large_model": {
                "sustained_per_s": round(self.replay.yardstick.sustained_per_s, 4),
                "unloaded_latency_ms": round(self.replay.yardstick.unloaded_s * 1000, 2),
            },
            "complete": not self.replay.cut_short,
            "cut_short": self.replay.cut_short,
            "run": dict(self.asked),
            "machine": asdict(self.machine),
        }

    def _policy(self, policy: str) -> dict[str, Any]:
        runs = self.replay.of(policy)
        spreads = {name: rounded(asdict(spread)) for name, spread in _spreads(runs).items()}
        worth = self.worth.get(policy)
        rate = violation_rate(self.replay, policy)
        front = None if worth is None else violations_of_front(self._front(), worth.accuracy)
        return {
            "violation_rate": round(rate, 5),
            "goodput": round(median(run.objectives[-1].goodput_per_s for run in runs), 4),
            **({} if worth is None else rounded(asdict(worth))),
            **({} if front is None else {"violation_rate_of_static_front": round(front, 5)}),
            **{name: spread["mean"] for name, spread in spreads.items()},
            "spread": spreads,
            "runs": [_run(run) for run in runs],
        }

    def _front(self) -> list[Split]:
        shares = {each.name: each.share for each in self.contenders if each.share is not None}
        return static_front(self.replay, self.worth, shares)


def _spreads(runs: list[Run]) -> dict[str, Spread]:
    """Of the runs of one policy, by the name of what is measured."""
    measured: dict[str, list[float]] = {
        "requests": [run.requests for run in runs],
        "answered": [run.answered for run in runs],
        "failed": [run.failed for run in runs],
        "unanswered": [run.unanswered for run in runs],
        "latency_p50": [run.latency_p50_s * 1000 for run in runs],
        "latency_p99": [run.latency_p99_s * 1000 for run in runs],
        "hit_rate": [run.hit_rate for run in runs],
        "steps_skipped": [run.steps_skipped for run in runs],
    }
    for number, times in enumerate(OBJECTIVES):
        measured[f"slo_attainment_{times}x"] = [run.objectives[number].attainment for run in runs]
        measured[f"goodput_per_s_{times}x"] = [run.objectives[number].goodput_per_s for run in runs]
        measured[f"violations_{times}x"] = [run.objectives[number].violations for run in runs]
    return {name: Spread.of(values) for name, values in measured.items() if all(map(math.isfinite, values))}


def _run(run: Run) -> dict[str, Any]:
    return {**rounded(asdict(run)), "objectives": [rounded(asdict(objective)) for objective in run.objectives]}


def text(replay: Replay, worth: Mapping[str, Worth]) -> str:
    """A line a policy: means over its runs."""
    lines = [_cells(policy, replay.of(policy), worth.get(policy)) for policy in replay.policies]
    return table([_COLUMNS, *lines])


def _cells(policy: str, runs: list[Run], worth: Worth | None) -> tuple[str, ...]:
    def mean(values: list[float], digits: int = 0) -> str:
        return f"{np.mean(values):.{digits}f}"

    return (
        policy,
        mean([run.requests for run in runs]),
        mean([run.answered for run in runs]),
        mean([run.failed for run in runs]),
        mean([run.unanswered for run in runs]),
        mean([run.latency_p50_s for run in runs], 2),
        mean([run.latency_p99_s for run in runs], 2),
        *(f"{np.mean([run.objectives[n].attainment for run in runs]):.0%}" for n in range(len(OBJECTIVES))),
        *(mean([run.objectives[n].goodput_per_s for run in runs], 2) for n in range(len(OBJECTIVES))),
        "-" if worth is None else f"{worth.accuracy:.1%}",
        f"{np.mean([run.hit_rate for run in runs]):.0%}",
        mean([run.lag_p99_s * 1000 for run in runs], 1),
    )
