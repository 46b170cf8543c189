"""From measured quality to thresholds: how similar is similar enough to skip how much.

As MoDM has it, and Nirvana likewise: the threshold of a skip is the lowest similarity at which what is painted from a
cached start keeps a share α of the quality of a full run. Here quality is attribute accuracy, judged against the scene
of the query, and both sides are painted for the same queries.

Pairs of query and match are sorted by similarity and cut into bins. What a bin gains or loses against α times full
quality is made to rise with similarity by isotonic regression (pool adjacent violators), so that a lucky bin below an
unlucky one does not count. Where there are too few pairs for a bin, nothing ever hits.

Or, over all requests together: see ``promises``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from underpaint.errors import InvalidArgument
from underpaint.policies.thresholds import Threshold, Thresholds

BIN_PAIRS = 12  # at least so many in a bin: what is left of chance, the regression levels
MAX_BINS = 72
SYSTEMS = ("modm", "modm_text", "nirvana", "retrieval")
SLACK = 1e-4  # a verbatim repeat has similarity 1 here, and 0.9999999 elsewhere


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
class Requests:
    """All requests in their order, from noise.

    Attributes:
        full, small: accuracy of what the large and the small variant paint.
        full_confidence, small_confidence: what the discriminator gives them; empty where there are no scorers.
        difficulty: what the router gives the prompt; the same.
    """

    full: list[float]
    small: list[float]
    full_confidence: list[float] = field(default_factory=list)
    small_confidence: list[float] = field(default_factory=list)
    difficulty: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Measurements:
    """Pairs by system, and all requests. ``embedder``, ``small``, ``large``, ``router`` and ``discriminator`` are the
    hashes of what they were measured on; the last two are empty where there are none.

    ``run_cost``: by system, what a whole run of the variant that serves hits computes, in runs of the large one.
    ``embeddings``: of all requests in their order, of unit length: ``text``, and ``large`` and ``small``, which are
    those of the pictures that the two variants paint of them.
    """

    embedder: str
    small: str
    large: str
    pairs: dict[str, tuple[Pair, ...]]
    requests: Requests
    run_cost: dict[str, float]
    embeddings: dict[str, list[list[float]]]
    router: str = ""
    discriminator: str = ""
    measured_at: str = ""
    measured_on: str = ""
    complete: bool = True

    def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self)) + "\n")

    def similarities(self, system: str) -> tuple[np.ndarray, np.ndarray]:
        """Of each request (row) to what the large and the small variant paint of each, float32 [N, N], as the system
        looks them up."""
        text, *pictures = (np.array(self.embeddings[name], np.float32) for name in ("text", "large", "small"))
        to_large, to_small = (text @ entries.T for entries in (pictures if system == "modm" else (text, text)))
        return to_large, to_small

    @classmethod
    def load(cls, path: Path) -> Measurements:
        """
        Raises:
            InvalidArgument: this is not what :meth:`save` wrote.
        """
        try:
            raw = json.loads(path.read_text())
            pairs = {system: tuple(map(_pair, own)) for system, own in raw["pairs"].items()}
            return cls(**{**raw, "pairs": pairs, "requests": Requests(**raw["requests"])})
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


def bins(pairs: Sequence[Pair], most: int = MAX_BINS) -> list[Bin]:
    """At most so many, by rising similarity, about equally many in each; equal similarities are never told apart.

    Cut from the top, so that what is left over blurs the lowest bin, where nothing hits, and not the highest.
    """
    ordered = sorted(pairs, key=lambda pair: -pair.similarity)
    size = max(BIN_PAIRS, math.ceil(len(ordered) / most))
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
    return round(good[0] - SLACK, 6) if good else math.inf


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
