"""What ``underpaint bench policies`` leaves behind: a table, results.json, every request, plots and contact sheets."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from underpaint.bench import plots
from underpaint.bench.machine import Machine
from underpaint.bench.policies import VANILLA, Contest
from underpaint.bench.report import rounded, table, write_json
from underpaint.bench.results import Jury, PolicyResult
from underpaint.bench.sheets import policy_sheet

_COLUMNS = ("policy", "images/s", "×", "slices", "accuracy", "×", "95%", "FID ×", "CLIP ×", "diversity ×", "GFLOP ×",
            "hits", "skipped", "p50 s", "p99 s", "bound", "reached")  # fmt: skip


@dataclass(frozen=True)
class AlphaPoint:
    """A policy under one of several calibrations."""

    alpha: float
    policy: str
    result: PolicyResult


@dataclass(frozen=True, eq=False)
class Record:
    """One run. ``frontier``: the same under other calibrations; ``asked``: what the run was asked to do."""

    contest: Contest
    jury: Jury
    results: Mapping[str, PolicyResult]
    frontier: Sequence[AlphaPoint]
    asked: Mapping[str, Any]
    machine: Machine
    alpha: float | None = None

    def to_json(self) -> dict[str, Any]:
        """``results.json``."""
        return {
            "policies": {policy: rounded(result.to_json()) for policy, result in self.results.items()},
            "bound": {policy: rounded(asdict(result.bound)) for policy, result in self.results.items()},
            "frontier": [
                {"alpha": point.alpha, "policy": point.policy, **rounded(point.result.to_json())}
                for point in self.frontier
            ],
            "complete": not self.contest.cut_short,
            "cut_short": self.contest.cut_short,
            "judge_on_renders": None
            if self.jury.renders is None
            else float(self.jury.renders.accuracy.mean().round(4)),
            "run": dict(self.asked),
            "machine": asdict(self.machine),
        }


def write(record: Record, out: Path) -> None:
    """Everything, into a folder."""
    write_json(record.to_json(), out / "results.json")
    with (out / "requests.jsonl").open("w") as lines:
        lines.writelines(f"{json.dumps(line)}\n" for line in _requests(record))
    _plot(record, out)
    for policy in record.results:
        if policy != VANILLA:
            served = record.contest.images_of(policy)
            sheet = policy_sheet(policy, served, record.contest.images_of(VANILLA), _note(record.results[policy]))
            sheet.save(out / f"{policy}_sheet.png")


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
        f"{told['hit_rate']:.0%}",
        f"{told['steps_skipped']:.0%}",
        f"{told['latency_p50'] / 1000:.2f}",
        f"{told['latency_p99'] / 1000:.2f}",
        _number(bound.throughput_ratio, 2),
        "–" if bound.reached is None else f"{bound.reached:.0%}",
    )


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _note(result: PolicyResult) -> str:
    return f"{result.speed.ratio:.2f}× as fast"


def _requests(record: Record) -> Iterator[dict[str, Any]]:
    """One line a picture: what was asked, how it was served, how good it is."""
    for policy in record.contest.policies:
        judged = record.jury.policies.get(policy)
        for place, served in enumerate(record.contest.images_of(policy)):
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
    served = {policy: record.contest.images_of(policy) for policy in record.results}
    plots.throughput_bars([_bar(policy, result) for policy, result in record.results.items()], out / "throughput.png")
    plots.latency_cdf(
        {policy: [each.latency_s for each in own] for policy, own in served.items()},
        out / "latency.png",
        f"{record.asked['concurrency']} requests at a time",
    )
    plots.hit_rate({p: [each.account.hit for each in own] for p, own in served.items()}, out / "hit_rate.png")
    points = [_point(policy, result, None) for policy, result in record.results.items()]
    if record.frontier:  # then alphas tell the points of one policy apart
        varied = {point.policy for point in record.frontier}
        points = [_point(p, r, record.alpha if p in varied else None) for p, r in record.results.items()]
        points += [_point(point.policy, point.result, point.alpha) for point in record.frontier]
    if known := [point for point in points if point is not None]:
        plots.frontier(known, out / "frontier.png")


def _bar(policy: str, result: PolicyResult) -> plots.Bar:
    slices = result.speed.slice_ratios
    return plots.Bar(policy, result.speed.ratio, min(slices), max(slices), result.bound.throughput_ratio)


def _point(policy: str, result: PolicyResult, alpha: float | None) -> plots.Point | None:
    """None where the pictures have not been judged."""
    ratios = result.ratios
    if ratios is None or ratios.accuracy is None:
        return None
    return plots.Point(policy, result.speed.ratio, ratios.accuracy, ratios.accuracy_low, ratios.accuracy_high, alpha)
