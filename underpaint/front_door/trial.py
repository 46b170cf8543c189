"""What two versions of a family do side by side: counted, timed and, in the background, judged."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from dataclasses import dataclass

import numpy as np

from underpaint.errors import UnderpaintError
from underpaint.front_door.complaints import Complaints
from underpaint.front_door.outcome import Outcome
from underpaint.front_door.scoring import Scoring
from underpaint.front_door.tally import Tally
from underpaint.front_door.traffic import Release, Traffic

# Seconds, each a quarter more than the one before: from 10 ms to beyond the longest that the door waits.
LATENCY_EDGES = tuple(0.01 * 1.25**n for n in range(46))
_TOGETHER = 2


@dataclass(frozen=True, eq=False)
class Exhibit:
    """A picture, uint8 [H, W, 3], that one of two versions made while both served."""

    labels: tuple[str, str]
    prompt: str
    image: np.ndarray


class Trial:
    """Keeps the tally of both versions, under the candidate that was on trial.

    Pictures are judged once their callers have them, a few at a time; those that come meanwhile are not judged, so
    that a busy server loses little by it.
    """

    def __init__(self, tally: Tally, scoring: Scoring | None, complaints: Complaints) -> None:
        """Without ``scoring`` nothing is judged."""
        self._tally, self._scoring, self._complaints = tally, scoring, complaints
        self._judging: set[asyncio.Task[None]] = set()

    def count(self, traffic: Traffic, release: Release, outcome: Outcome) -> tuple[str, str] | None:
        """A request has been answered. Returns the labels under which to exhibit its picture; None without a trial."""
        labels = _labels(traffic, release)
        if labels is None:
            return None
        self._tally.trial_requests[labels] += 1
        total_s = outcome.timings_ms.total / 1e3
        for edge in (*LATENCY_EDGES, math.inf):
            if total_s <= edge:
                self._tally.trial_latencies[(*labels, _le(edge))] += 1
        return labels

    def failed(self, traffic: Traffic, release: Release, failure: UnderpaintError) -> None:
        """A version could not answer a request, for a reason that is not the caller's."""
        labels = _labels(traffic, release)
        if labels is not None:
            self._tally.trial_failures[labels] += 1
            self._complaints.about("rollout", f"version {release.version}: {failure}")

    def exhibit(self, exhibit: Exhibit) -> None:
        """Have a picture judged, unless enough are being judged."""
        if self._scoring is None or len(self._judging) >= _TOGETHER:
            return
        task = asyncio.create_task(self._judge(exhibit, self._scoring))
        self._judging.add(task)
        task.add_done_callback(self._judging.discard)

    async def _judge(self, exhibit: Exhibit, scoring: Scoring) -> None:
        try:
            (confidence,) = await scoring.confidences([exhibit.prompt], exhibit.image[None])
        except Exception as error:  # nobody waits for it
            self._complaints.about("rollout", f"a picture was not judged: {error}")
            return
        self._tally.trial_judged[exhibit.labels] += 1
        self._tally.trial_confidences[exhibit.labels] += round(confidence, 4)  # type: ignore[assignment]


def _labels(traffic: Traffic, release: Release) -> tuple[str, str] | None:
    return (str(traffic.candidate.version), str(release.version)) if traffic.candidate else None


def _le(edge: float) -> str:
    return "+Inf" if edge == math.inf else f"{edge:.4g}"


def quantile(counts: Counter[str], share: float) -> float:
    """Seconds within which a share of requests was answered, from cumulative counts by ``le``; between edges, a line.

    nan where nothing was counted; the last edge, where it lies beyond.
    """
    total = counts["+Inf"]
    if not total:
        return math.nan
    below, counted = 0.0, 0.0
    for edge in LATENCY_EDGES:
        here = counts[_le(edge)]
        if here >= share * total:
            return below + (edge - below) * (share * total - counted) / max(here - counted, 1e-9)
        below, counted = edge, here
    return below
