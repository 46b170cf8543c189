"""What ``underpaint bench policies`` leaves behind: a table, results.json, every request, plots and contact sheets."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from underpaint.bench.common.machine import Machine
from underpaint.bench.common.plots import latency_cdf
from underpaint.bench.common.report import rounded, table, write_json
from underpaint.bench.policies import plots
from underpaint.bench.policies.arena import Entrant, Match
from underpaint.bench.policies.contest import VANILLA
from underpaint.bench.policies.results import PolicyResult
from underpaint.bench.policies.sheets import policy_sheet

_COLUMNS = ("policy", "images/s", "×", "slices", "accuracy", "×", "95%", "FID ×", "CLIP ×", "diversity ×", "GFLOP ×",
            "CPU ×", "hits", "skipped", "p50 s", "p99 s", "bound", "reached")  # fmt: skip


@dataclass(frozen=True, eq=False)
class Record:
    """One run. ``asked``: what it was asked to do."""

    match: Match
    entrants: Mapping[str, Entrant]
    asked: Mapping[str, Any]
    machine: Machine

    def to_json(self) -> dict[str, Any]:
        """``results.json``. Policies under further calibrations stand apart, in ``frontier``."""
        contest, renders = self.match.contest, self.match.jury.renders
        told = {name: rounded(result.to_json()) for name, result in self.match.results.items()}
        varied = [entrant for name, entrant in self.entrants.items() if name in told and name != entrant.policy]
        return {
            "policies": {name: own for name, own in told.items() if name == self.policy(name)},
            "bound": {name: rounded(asdict(result.bound)) for name, result in self.match.results.items()},
            "frontier": [{"alpha": each.alpha, "policy": each.policy, **told[each.name]} for each in varied],
            "small_cost": round(self.match.small_cost, 4),
            "judge_on_renders": None if renders is None else round(float(renders.accuracy.mean()), 4),
            "complete": not contest.cut_short,
            "cut_short": contest.cut_short,
            "run": dict(self.asked),
            "machine": asdict(self.machine),
        }

    def policy(self, name: str) -> str:
        return self.entrants[name].policy if name in self.entrants else name


def write(record: Record, out: Path) -> None:
    """Everything, into a folder."""
    write_json(record.to_json(), out / "results.json")
    with (out / "requests.jsonl").open("w") as lines:
        lines.writelines(f"{json.dumps(line)}\n" for line in _requests(record))
    _plot(record, out)
    contest = record.match.contest
    for name, result in record.match.results.items():
        if name == record.policy(name) != VANILLA:
            note = f"{result.speed.ratio:.2f}x as fast"
            sheet = policy_sheet(name, contest.images_of(name), contest.images_of(VANILLA), note)
            sheet.save(out / f"{name}_sheet.png")


def text(results: Mapping[str, PolicyResult]) -> str:
    """A line a policy; × is to vanilla."""
    return table([_COLUMNS, *(_cells(policy, result.to_json(), result) for policy, result in results.items())])


def _cells(policy: str, told: Mapping[str, Any], result: PolicyResult) -> tuple[str, ...]:
    slices, bound = result.speed.slice_ratios, result.bound
    interval = f"{told['accuracy_ratio_low']:.3f}–{told['accuracy_ratio_high']:.3f}" if result.ratios else "–"
    return (
        policy,
        f"{told['images_per_s']:.2f}",
        f"{told['throughput_ratio']:.2f}",
        f"{min(slices):.2f}–{max(slices):.2f}",
        _number(told.get("accuracy"), 3),
        _number(told["accuracy_ratio"], 3),
        interval,
        _number(told["fid_ratio"], 2),
        _number(told["clip_ratio"], 3),
        _number(told["diversity_ratio"], 2),
        _number(told["compute_ratio"], 2),
        _number(told["cpu_ratio"], 2),
        f"{told['hit_rate']:.0%}",
        f"{told['steps_skipped']:.0%}",
        f"{told['latency_p50'] / 1000:.2f}",
        f"{told['latency_p99'] / 1000:.2f}",
        _number(bound.throughput_ratio, 2),
        "–" if bound.reached is None else f"{bound.reached:.0%}",
    )


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _requests(record: Record) -> Iterator[dict[str, Any]]:
    """One line a picture: what was asked, how it was served, how good it is."""
    for policy in record.match.contest.policies:
        judged = record.match.jury.policies.get(policy)
        for place, served in enumerate(record.match.contest.images_of(policy)):
            item = served.item
            yield {
                "policy": policy,
                "index": item.index,
                "caption": item.caption,
                "seed": item.seed,
                "relation": item.relation.value,
                "parent": item.parent,
                "session": item.session,
                "latency_ms": round(served.latency_s * 1000, 1),
                "answered_s": round(served.answered_s, 3),
                **asdict(served.account),
                "accuracy": None if judged is None else round(float(judged.accuracy[place]), 4),
            }


# Plots ----------------------------------------------------------------------------------------------------------


def _plot(record: Record, out: Path) -> None:
    measured = record.match.results
    main = {name: record.match.contest.images_of(name) for name in measured if name == record.policy(name)}
    plots.throughput_bars([_bar(name, measured[name]) for name in main], out / "throughput.png")
    latency_cdf(
        {name: [each.latency_s for each in own] for name, own in main.items()},
        out / "latency.png",
        f"{record.asked['concurrency']} requests at a time",
    )
    plots.hit_rate({name: [each.account.hit for each in own] for name, own in main.items()}, out / "hit_rate.png")
    points = [_point(record, name, result) for name, result in measured.items()]
    if known := [point for point in points if point is not None]:
        plots.frontier(known, out / "frontier.png")


def _bar(policy: str, result: PolicyResult) -> plots.Bar:
    slices = result.speed.slice_ratios
    return plots.Bar(policy, result.speed.ratio, min(slices), max(slices), result.bound.throughput_ratio)


def _point(record: Record, name: str, result: PolicyResult) -> plots.Point | None:
    """None where the pictures have not been judged. Where there are several calibrations, α tells them apart."""
    ratios, policy = result.ratios, record.policy(name)
    if ratios is None or ratios.accuracy is None:
        return None
    several = sum(entrant.policy == policy for entrant in record.entrants.values()) > 1
    alpha = record.entrants[name].alpha if several else None
    return plots.Point(policy, result.speed.ratio, ratios.accuracy, ratios.accuracy_low, ratios.accuracy_high, alpha)
