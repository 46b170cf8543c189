"""Who asks in a simulation: prompts, with the scores that router and discriminator give them.

Scores are the published ones where they are at hand, else drawn from the published deferral curve; or they were
recorded on a server of ours, together with whether the images were right.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from underpaint.control.allocation import Reuse
from underpaint.control.curves import Deferral
from underpaint.control.profile import Profile
from underpaint.control.published import confidences, hadis_confidences
from underpaint.errors import InvalidArgument, NotFound

_DRAWN = 5000  # prompts of a population that is drawn


@dataclass(frozen=True)
class Population:
    """
    Attributes:
        router: float [prompts], how hard a prompt looks, 0 to 1.
        confidence: by variant, float [prompts], of its image.
        correct: by variant, float [prompts], share of what was asked for that its image shows; where that was recorded.
        reuse: what a cache would give them.
    """

    router: np.ndarray
    confidence: Mapping[str, np.ndarray]
    correct: Mapping[str, np.ndarray] = field(default_factory=dict)
    reuse: Reuse = field(default_factory=Reuse)

    def __post_init__(self) -> None:
        sizes = {len(each) for each in (self.router, *self.confidence.values(), *self.correct.values())}
        if len(sizes) != 1 or not len(self.router):
            raise InvalidArgument.of("population", sorted(sizes), "one number of prompts for all scores, 1 or more")

    def __len__(self) -> int:
        return len(self.router)


def population(profile: Profile, data: Path | None, seed: int, reuse: Reuse | None = None) -> Population:
    """For a profile. HADIS' router is drawn: on its authors' data it is no better than a coin, and independent of the
    discriminator.
    """
    random = np.random.default_rng(seed)
    found = _published_confidences(profile, data)
    number = len(next(iter(found.values()))) if found else _DRAWN
    for each in profile.variants:
        if each.name not in found:
            found[each.name] = _drawn(profile.deferral(each.name), number, random)
    return Population(random.random(number), found, reuse=reuse or Reuse())


def _published_confidences(profile: Profile, data: Path | None) -> dict[str, np.ndarray]:
    """Of prompts, as far as the artifacts have them: means of four images, which the published curves are about."""
    if data is None:
        return {}
    if profile.name in ("diffserve-1", "diffserve-2", "diffserve-3"):
        light = profile.lightest.name
        scores = "sd-turbo" if light == "sd-turbo" else "sdxs"
        return {light: confidences(scores, data).mean(axis=1)}
    if profile.name.startswith("hadis"):
        return {name: hadis_confidences(name, data).mean(axis=1) for name in (v.name for v in profile.variants)}
    return {}


def _drawn(deferral: Deferral | None, number: int, random: np.random.Generator) -> np.ndarray:
    """Scores whose distribution is the curve, or even where there is none."""
    ranks = random.random(number)
    return ranks if deferral is None else np.interp(ranks, deferral.shares, deferral.thresholds)


def recorded(path: Path, small: str, large: str) -> Population:
    """A CSV file with columns ``router``, ``confidence``, ``small_correct`` and ``large_correct``, a row a prompt.

    Raises:
        NotFound: there is no such file.
        InvalidArgument: a column is missing, or a value is no number from 0 to 1.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except OSError as error:
        raise NotFound(f"{path}: {error.strerror}") from None
    columns = {name: np.array([_share(path, row, name) for row in rows]) for name in _COLUMNS}
    return Population(
        router=columns["router"],
        confidence={small: columns["confidence"], large: np.ones(len(rows))},
        correct={small: columns["small_correct"], large: columns["large_correct"]},
    )


_COLUMNS = ("router", "confidence", "small_correct", "large_correct")


def _share(path: Path, row: Mapping[str, str | None], name: str) -> float:
    try:
        value = float(row.get(name) or "")
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1:
        raise InvalidArgument.of(f"{path}: {name}", row.get(name), "a number, 0 to 1")
    return value
