"""What the pictures of a replay are worth, and how policies stand against the front of the static splits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np

from underpaint.bench.cascades.replay import Replay
from underpaint.bench.judging.quality import Embedder, Gallery, examine, fresh_renders, quality, unread


@dataclass(frozen=True)
class Worth:
    """Of all pictures that a contender served.

    Attributes:
        accuracy: share of pictures in which everything is as the caption says.
        attributes: share of what the captions say that is so.
        fid: against fresh renders of the same scenes; None without a CLIP.
    """

    accuracy: float
    attributes: float
    fid: float | None


def judge_replay(replay: Replay, embedder: Embedder | None) -> dict[str, Worth]:
    """By contender; those that served nothing are left out."""
    worth = {}
    for name in replay.policies:
        served = [each for run in replay.of(name) for each in replay.pictures.get((name, run.seed), [])]
        if not served:
            continue
        items = [item for item, _ in served]
        judged = examine(Gallery(items, np.stack([image for _, image in served]), [None] * len(items)), embedder, name)
        renders = unread(fresh_renders(items, seed=0), embedder)
        found = quality(judged, renders)
        worth[name] = Worth(found.all_right, found.accuracy, found.fid)
    return worth


def violation_rate(replay: Replay, name: str) -> float:
    """Share of requests that were not answered within the last objective: the median over realisations."""
    return median(1 - run.objectives[-1].attainment for run in replay.of(name))


@dataclass(frozen=True)
class Split:
    """A static split: the small variant's share of the requests, and what came of it."""

    share: float
    violation_rate: float
    accuracy: float


def violations_of_front(front: Sequence[Split], accuracy: float) -> float | None:
    """The least violations that static splits, or mixes of two of them, have at this accuracy or a better one.

    None where no split is as accurate.
    """
    candidates = [split.violation_rate for split in front if split.accuracy >= accuracy]
    for one in front:
        for other in front:
            if one.accuracy < accuracy <= other.accuracy:
                weight = (accuracy - one.accuracy) / (other.accuracy - one.accuracy)
                candidates.append(one.violation_rate + weight * (other.violation_rate - one.violation_rate))
    return min(candidates, default=None)


def static_front(replay: Replay, worth: Mapping[str, Worth], shares: Mapping[str, float]) -> list[Split]:
    """By rising share; ``shares``: of the contenders that are splits."""
    ran = {name: share for name, share in shares.items() if name in worth}
    splits = [Split(share, violation_rate(replay, name), worth[name].accuracy) for name, share in ran.items()]
    return sorted(splits, key=lambda split: split.share)
