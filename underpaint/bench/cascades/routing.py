"""What router and discriminator are worth: quality against the share of requests that the large variant paints.

Every caption is painted by both variants, so whatever a cascade would have served is known, and so are its controls:
deferring at random, and an oracle that knows where the large variant's picture is better by how much. The gap between
these two is all that there is to be gained; what counts is the share of it that a score closes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from underpaint.build.tiny.skill import auc, calibration_error

DEFERRALS = (0.1, 0.3, 0.5)
CURVE = tuple(round(0.05 * step, 2) for step in range(21))
HARD_SHARE = 0.25  # of what the hybrid defers, the router's part
_RESAMPLES = 400


@dataclass(frozen=True, eq=False)
class Quality:
    """Of pictures by one measure, float64 [N] each, more is better."""

    small: np.ndarray
    large: np.ndarray


@dataclass(frozen=True, eq=False)
class Examined:
    """Both variants' pictures of the same captions and seeds.

    Attributes:
        difficulty: the router's scores of the prompts, confidence: the discriminator's of the small pictures, [N].
        faultless: 1 for a picture without any fault, by the judge; accuracy: the share of what was told that it shows,
            by the judge; clip: the cosine of picture and caption, which no scorer has seen.
    """

    difficulty: np.ndarray
    confidence: np.ndarray
    faultless: Quality
    accuracy: Quality
    clip: Quality


@dataclass(frozen=True)
class Skill:
    """Of one scorer. Of each deferral: the share of the gap that it closes, by each measure."""

    auc: float | None
    calibration_error: float | None
    gap_closed: dict[str, float]
    gap_closed_low: dict[str, float]
    gap_closed_high: dict[str, float]
    gap_closed_accuracy: dict[str, float]
    gap_closed_second_metric: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        return {name: _rounded(value) for name, value in vars(self).items() if value is not None}


def skills(examined: Examined) -> dict[str, Skill]:
    """By scorer. 95% of resamples of the captions lie between ``gap_closed_low`` and ``gap_closed_high``."""
    wrong = examined.faultless.small < 1
    found = {
        "discriminator": (auc(-examined.confidence, wrong), calibration_error(examined.confidence, 1.0 - wrong)),
        "router": (auc(examined.difficulty, wrong), calibration_error(examined.difficulty, wrong.astype(float))),
        "hybrid": (None, None),
    }
    return {name: _skill(examined, name, *figures) for name, figures in found.items()}


def _skill(examined: Examined, name: str, area: float | None, error: float | None) -> Skill:
    low, high = _intervals(examined, name)
    return Skill(
        auc=area,
        calibration_error=error,
        gap_closed=_gaps(examined, name, examined.faultless),
        gap_closed_low=low,
        gap_closed_high=high,
        gap_closed_accuracy=_gaps(examined, name, examined.accuracy),
        gap_closed_second_metric=_gaps(examined, name, examined.clip),
    )


def _gaps(examined: Examined, name: str, quality: Quality, rows: np.ndarray | None = None) -> dict[str, float]:
    picked = np.arange(len(examined.difficulty)) if rows is None else rows
    own = Quality(quality.small[picked], quality.large[picked])
    difficulty, confidence = examined.difficulty[picked], examined.confidence[picked]
    return {f"{share:g}": gap_closed(own, deferred(name, difficulty, confidence, share), share) for share in DEFERRALS}


def _intervals(examined: Examined, name: str) -> tuple[dict[str, float], dict[str, float]]:
    """Percentile bootstrap over captions."""
    count, rng = len(examined.difficulty), np.random.default_rng(0)
    draws = [_gaps(examined, name, examined.faultless, rng.integers(0, count, count)) for _ in range(_RESAMPLES)]
    ends = {key: np.nanpercentile([draw[key] for draw in draws], [2.5, 97.5]) for key in draws[0]}
    return {key: float(low) for key, (low, _) in ends.items()}, {key: float(high) for key, (_, high) in ends.items()}


def deferred(name: str, difficulty: np.ndarray, confidence: np.ndarray, share: float) -> np.ndarray:
    """Which of the requests the large variant paints, bool [N], where ``share`` of them are left to it."""
    if name == "router":
        return _top(difficulty, share)
    if name == "discriminator":
        return _top(-confidence, share)
    hard = _top(difficulty, HARD_SHARE * share)
    return _top(np.where(hard, np.inf, -confidence), share)


def _top(scores: np.ndarray, share: float) -> np.ndarray:
    """The ``share`` of them that is highest; among equals the first."""
    chosen = np.zeros(len(scores), bool)
    chosen[np.argsort(-scores, kind="stable")[: round(share * len(scores))]] = True
    return chosen


def mixed(quality: Quality, large: np.ndarray) -> float:
    """The mean over the pictures that are served, where ``large``, bool [N], says whose each is."""
    return float(np.where(large, quality.large, quality.small).mean())


def by_chance(quality: Quality, share: float) -> float:
    """What deferring at random comes to."""
    return float((1 - share) * quality.small.mean() + share * quality.large.mean())


def gap_closed(quality: Quality, large: np.ndarray, share: float) -> float:
    """Of the way from chance to the oracle; nan where there is none."""
    chance, oracle = by_chance(quality, share), mixed(quality, _top(quality.large - quality.small, share))
    return (mixed(quality, large) - chance) / (oracle - chance) if oracle > chance else float("nan")


def curves(examined: Examined, quality: Quality) -> dict[str, list[float]]:
    """Quality at every deferral of ``CURVE``: of the scorers, of chance and of the oracle."""
    scores = (examined.difficulty, examined.confidence)
    names = ("discriminator", "router", "hybrid")
    found = {name: [mixed(quality, deferred(name, *scores, share)) for share in CURVE] for name in names}
    gain = quality.large - quality.small
    oracle = [mixed(quality, _top(gain, share)) for share in CURVE]
    return {"oracle": oracle, **found, "random": [by_chance(quality, share) for share in CURVE]}


def to_json(examined: Examined) -> dict[str, Any]:
    """Everything that was found."""
    measures = {"faultless": examined.faultless, "accuracy": examined.accuracy, "clip": examined.clip}
    return {
        **{name: skill.to_json() for name, skill in skills(examined).items()},
        "quality": {
            name: {"small": round(float(each.small.mean()), 4), "large": round(float(each.large.mean()), 4)}
            for name, each in measures.items()
        },
        "deferral": list(CURVE),
        "curves": {
            name: {line: [round(value, 4) for value in values] for line, values in curves(examined, each).items()}
            for name, each in measures.items()
        },
        "captions": len(examined.difficulty),
    }


def text(report: Mapping[str, Any]) -> str:
    """The figures that count, for people."""
    quality = report["quality"]["faultless"]
    lines = [
        f"{report['captions']} captions: {quality['small']:.1%} of the small variant's pictures are without fault, "
        f"{quality['large']:.1%} of the large one's",
        f"{'':<14}   AUC  calibration error   gap closed at 10%, 30%, 50% deferral   by CLIP score",
    ]
    for name in ("discriminator", "router", "hybrid"):
        skill = report[name]
        figures = [f"{skill[key]:.3f}" if key in skill else "  –  " for key in ("auc", "calibration_error")]
        closed, second = (
            "  ".join(f"{skill[key][f'{share:g}']:6.1%}" for share in DEFERRALS)
            for key in ("gap_closed", "gap_closed_second_metric")
        )
        lines.append(f"{name:<14} {figures[0]}  {figures[1]:<18}  {closed:<38} {second}")
    return "\n".join(lines)


def _rounded(value: Any) -> Any:
    return {key: round(each, 4) for key, each in value.items()} if isinstance(value, dict) else round(value, 4)
