"""From measured quality to thresholds: how similar is similar enough to skip how much.

As MoDM has it, and Nirvana likewise: the threshold of a skip is the lowest similarity at which what is painted from a
cached start keeps a share α of the quality of a full run. Here quality is attribute accuracy, judged against the scene
of the query, and both sides are painted for the same queries.

Or, over all requests: whole-trace quality is (1-h) + h·q, so hits that are not quite as good can be afforded by the
misses. Of all tables of thresholds the cheapest is taken that keeps α of the quality of all requests together.

Pairs of query and match are sorted by similarity and cut into bins. What a bin gains or loses against α times full
quality is made to rise with similarity by isotonic regression (pool adjacent violators), so that a lucky bin below an
unlucky one does not count. Where there are too few pairs for a bin, nothing ever hits.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from underpaint.errors import InvalidArgument
from underpaint.policies.thresholds import NEVER, Threshold, Thresholds

BIN_PAIRS = 25  # at least so many in a bin
MAX_BINS = 24
SYSTEMS = ("modm", "modm_text", "nirvana", "retrieval")
_SLACK = 1e-4  # a verbatim repeat has similarity 1 here, and 0.9999999 elsewhere


@dataclass(frozen=True)
class Pair:
    """A query, painted in full and from what was found for it.

    Attributes:
        similarity: of the query to the entry, by which it was found.
        full: accuracy of the query's picture as the large variant paints it from noise.
        by_skip: accuracy of what is painted when that share of the steps is skipped, by share.
    """

    similarity: float
    full: float
    by_skip: dict[float, float]


@dataclass(frozen=True)
class Measurements:
    """Pairs by system. ``embedder``, ``small`` and ``large`` are the hashes of what they were measured on.

    ``run_cost``: by system, what a whole run of the variant that serves hits computes, in runs of the large one.
    """

    embedder: str
    small: str
    large: str
    pairs: dict[str, tuple[Pair, ...]]
    run_cost: dict[str, float]
    measured_at: str = ""
    measured_on: str = ""
    complete: bool = True

    def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def load(cls, path: Path) -> Measurements:
        """
        Raises:
            InvalidArgument: this is not what :meth:`save` wrote.
        """
        try:
            raw = json.loads(path.read_text())
            pairs = {system: tuple(map(_pair, own)) for system, own in raw["pairs"].items()}
            return cls(**{**raw, "pairs": pairs})
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InvalidArgument.of(
                "measurements", str(path), f"a file that calibrate --save wrote ({error})"
            ) from None


def _pair(raw: dict[str, Any]) -> Pair:
    by_skip = {float(skip): float(accuracy) for skip, accuracy in raw["by_skip"].items()}
    return Pair(float(raw["similarity"]), float(raw["full"]), by_skip)


# Bins -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bin:
    """Pairs of about the same similarity: their median, how many there are, and their mean accuracies.

    The median, since what is reused leaves nothing behind, so that at a server the best match is often a worse one than
    here: a threshold at the lower edge of a bin would let the bad half of it speak for all.
    """

    similarity: float
    pairs: int
    full: float
    by_skip: dict[float, float]


def bins(pairs: Sequence[Pair]) -> list[Bin]:
    """By rising similarity, about equally many in each; equal similarities are never told apart.

    Cut from the top, so that what is left over blurs the lowest bin, where nothing hits, and not the highest.
    """
    ordered = sorted(pairs, key=lambda pair: -pair.similarity)
    size = max(BIN_PAIRS, math.ceil(len(ordered) / MAX_BINS))
    cut: list[list[Pair]] = []
    for pair in ordered:
        if not cut or (len(cut[-1]) >= size and pair.similarity < cut[-1][-1].similarity):
            cut.append([])
        cut[-1].append(pair)
    if len(cut) > 1 and len(cut[-1]) < BIN_PAIRS:
        rest = cut.pop()
        cut[-1] += rest
    return [_bin(own) for own in reversed(cut) if len(own) >= BIN_PAIRS]


def _bin(pairs: Sequence[Pair]) -> Bin:
    return Bin(
        similarity=float(np.median([pair.similarity for pair in pairs])),
        pairs=len(pairs),
        full=float(np.mean([pair.full for pair in pairs])),
        by_skip={skip: float(np.mean([pair.by_skip[skip] for pair in pairs])) for skip in pairs[0].by_skip},
    )


# Thresholds -----------------------------------------------------------------------------------------------------


def thresholds(pairs: Sequence[Pair], alpha: float) -> Thresholds:
    """The largest skip that keeps ``alpha`` of full quality, by similarity.

    A shorter skip has a row only where it reaches lower than all longer ones. It need not do where a longer one does:
    what a weaker variant refines much of is its own work, and no longer that of the stronger one.
    """
    cut = bins(pairs)
    rows: list[Threshold] = []
    for skip in sorted(cut[0].by_skip if cut else (), reverse=True):
        similarity = _lowest_similarity(cut, skip, alpha)
        if similarity < (rows[-1].similarity if rows else math.inf):
            rows.append(Threshold(similarity, skip))
    return Thresholds(tuple(rows))


def _lowest_similarity(cut: Sequence[Bin], skip: float, alpha: float) -> float:
    """From where on ``skip`` keeps ``alpha`` of full quality; infinite where it never does."""
    gains = isotonic([each.by_skip[skip] - alpha * each.full for each in cut], [each.pairs for each in cut])
    good = [each.similarity for each, gain in zip(cut, gains, strict=True) if gain >= 0]
    return round(good[0] - _SLACK, 6) if good else math.inf


def isotonic(values: Sequence[float], weights: Sequence[float]) -> list[float]:
    """The rising sequence that is nearest in weighted least squares (pool adjacent violators)."""
    pools: list[tuple[float, float, int]] = []  # mean, weight, length
    for value, weight in zip(values, weights, strict=True):
        pools.append((value, weight, 1))
        while len(pools) > 1 and pools[-2][0] > pools[-1][0]:
            (low, light, short), (high, heavy, long) = pools.pop(), pools.pop()
            weight = light + heavy
            pools.append(((low * light + high * heavy) / weight, weight, short + long))
    return [mean for mean, _, length in pools for _ in range(length)]


# Over all requests ----------------------------------------------------------------------------------------------

_ALPHAS = tuple(round(1 - 0.01 * step, 2) for step in range(31))  # from 1 to .7


def thresholds_over_requests(pairs: Sequence[Pair], alpha: float, run_cost: float) -> Thresholds:
    """The cheapest table that keeps ``alpha`` of the quality of all these requests, hits and misses together.

    Tried are the tables for every hit, at every α, each as far down as any bin.
    """
    lowest = [round(each.similarity - _SLACK, 6) for each in bins(pairs)]
    whole = {thresholds(pairs, each) for each in _ALPHAS}
    tables = {from_(table, similarity) for table in whole for similarity in lowest}
    promises = {table: promise(pairs, table, run_cost) for table in tables}
    good = [table for table, expected in promises.items() if expected.trace_quality >= alpha]
    return min(good, key=lambda table: (promises[table].cost, table.reach), default=NEVER)


def from_(table: Thresholds, similarity: float) -> Thresholds:
    """The table with nothing below a similarity."""
    rows = [row for row in table.rows if row.similarity > similarity]
    below = [row for row in table.rows if row.similarity <= similarity]
    return Thresholds((*rows, *(Threshold(similarity, row.skip) for row in below[:1])))


# What to expect -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Promise:
    """What thresholds would have done to the pairs that they were made from.

    ``quality``: of the hits, over full quality of the same queries; None without hits. ``trace_quality``: of all.
    ``cost``: computation of all requests, in that of full runs.
    """

    hit_rate: float
    steps_skipped: float
    quality: float | None
    trace_quality: float
    cost: float


def promise(pairs: Sequence[Pair], table: Thresholds, run_cost: float = 1.0) -> Promise:
    """``run_cost``: of a whole run of the variant that serves hits, in runs of the large one."""
    skips = [table.skip(pair.similarity) for pair in pairs]
    kept = [pair.by_skip[skip] if skip else pair.full for pair, skip in zip(pairs, skips, strict=True)]
    hits = [(quality, pair.full) for quality, pair, skip in zip(kept, pairs, skips, strict=True) if skip]
    return Promise(
        hit_rate=len(hits) / len(pairs),
        steps_skipped=float(np.mean(skips)),
        quality=_ratio([quality for quality, _ in hits], [full for _, full in hits]),
        trace_quality=_ratio(kept, [pair.full for pair in pairs]) or 0.0,
        cost=float(np.mean([run_cost * (1 - skip) if skip else 1.0 for skip in skips])),
    )


def _ratio(kept: Sequence[float], full: Sequence[float]) -> float | None:
    return sum(kept) / sum(full) if sum(full) else None
