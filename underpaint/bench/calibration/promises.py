"""What thresholds would do in service, and the cheapest that keep a share of the quality of all requests.

What a table lets be painted is what later requests find, so its promise is reckoned by sending the requests that were
measured past a store that is empty at first, in their order. Whole-trace quality is (1-h) + h·q: hits that are not
quite as good can be afforded by the misses, and so can requests that are left to the small variant.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from underpaint.bench.calibration.pairs import SLACK, Bin, Measurements, bins, isotonic
from underpaint.policies.plan import TAKEN_OVER
from underpaint.policies.thresholds import NEVER, Threshold, Thresholds

if TYPE_CHECKING:
    from numpy.typing import NDArray

# What accuracy is worth when a table is made, in full pictures a unit: a sweep, since α alone does not tell. Not below
# 16: whatever the others afford, nobody is given what he did not ask for to save one painting.
_WEIGHTS = tuple(2.0 ** (power / 2) for power in range(8, 21))
_LASTING = 4.0  # so many times as much where a picture is taken over: if it is wrong, it is for all who come after
_ROW = 0.005  # what a further row must save, in full pictures a request


@dataclass(frozen=True, eq=False)
class Service:
    """One system, as far as it was measured.

    Attributes:
        to_large, to_small: float32 [N, N], the similarity of each request (row) to what a variant paints of each.
        similarities: of bins of pairs, rising; ``pairs``: how many each holds.
        gains: by skip, what it adds to the accuracy of a full picture, mostly less than 0, by bin; made to rise.
        small: the same of what the small variant paints from noise; None where it never serves.
        full: mean accuracy of full pictures.
        run_cost: what a whole run of the variant that serves hits computes, in runs of the large one.
    """

    to_large: NDArray[np.float32]
    to_small: NDArray[np.float32]
    similarities: Sequence[float]
    pairs: Sequence[int]
    gains: dict[float, Sequence[float]]
    small: float | None
    full: float
    run_cost: float

    @classmethod
    def of(cls, measured: Measurements, system: str) -> Service:
        pairs, cut = measured.pairs[system], bins(measured.pairs[system])
        weights = [each.pairs for each in cut]
        skips = [skip for skip in pairs[0].by_skip if skip] if cut else []
        small = [pair.by_skip[0.0] - pair.full for pair in pairs if 0.0 in pair.by_skip]
        to_large, to_small = measured.similarities(system)
        return cls(
            to_large=to_large,
            to_small=to_small,
            similarities=[each.similarity for each in cut],
            pairs=weights,
            gains={skip: isotonic([_gain(each, skip) for each in cut], weights) for skip in skips},
            small=float(np.mean(small)) if small else None,
            full=float(np.mean([pair.full for pair in pairs])),
            run_cost=measured.run_cost[system],
        )

    def gain(self, row: Threshold, similarity: float) -> float:
        """Of what is served by a row of a table, from what the large variant has painted in full."""
        if row.skip == 0:
            return self.small or 0.0
        return float(np.interp(similarity, self.similarities, self.gains[row.skip]))


def _gain(each: Bin, skip: float) -> float:
    return each.by_skip[skip] - each.full


# In service -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Promise:
    """What thresholds would do to the requests that they were made from, each share and mean over all of them.

    ``quality``: of the hits, over full quality; None without hits. ``trace_quality``: of all. ``near``: left to the
    small variant, from noise. ``cost``: computation, in that of full pictures.
    """

    hit_rate: float
    near: float
    steps_skipped: float
    quality: float | None
    trace_quality: float
    cost: float


@dataclass(frozen=True)
class _Served:
    """``skip``: 0 for what is left to the small variant, None for a miss; ``gain``: see ``Service``."""

    skip: float | None
    gain: float


def promise(service: Service, table: Thresholds) -> Promise:
    served = list(_serve(service, table))
    hits = [each for each in served if each.skip]
    costs = [1.0 if each.skip is None else service.run_cost * (1 - each.skip) for each in served]
    return Promise(
        hit_rate=len(hits) / len(served),
        near=float(np.mean([each.skip == 0 for each in served])),
        steps_skipped=float(np.mean([each.skip or 0.0 for each in served])),
        quality=1 + float(np.mean([each.gain for each in hits])) / service.full if hits else None,
        trace_quality=1 + float(np.mean([each.gain for each in served])) / service.full,
        cost=float(np.mean(costs)),
    )


def _serve(service: Service, table: Thresholds) -> Iterator[_Served]:
    """One request after the other: it finds what was kept of those before it, with whatever that has lost already."""
    large, small = _Shelf(service.to_large), _Shelf(service.to_small)
    for number in range(len(service.to_large)):
        similarity, inherited = max(large.best(number), small.best(number))
        row = table.row(similarity)
        if row is None:
            large.keep(number, 0.0)
            yield _Served(None, 0.0)
            continue
        shallow = row.skip <= TAKEN_OVER  # so that it is painted anew rather than taken over
        gain = service.gain(row, similarity) + (0.0 if shallow else inherited)
        if shallow:
            (large if service.small is None else small).keep(number, gain)
        yield _Served(row.skip, gain)


class _Shelf:
    """What is kept of one variant's pictures, and what each has gained or lost."""

    def __init__(self, similarities: NDArray[np.float32]) -> None:
        self._similarities = similarities
        self._kept = np.empty(len(similarities), np.intp)
        self._gains: list[float] = []

    def keep(self, number: int, gain: float) -> None:
        self._kept[len(self._gains)] = number
        self._gains.append(gain)

    def best(self, number: int) -> tuple[float, float]:
        """The greatest similarity of a request to anything, and the gain of that; -1 and 0 to nothing."""
        if not self._gains:
            return -1.0, 0.0
        similarities = self._similarities[number, self._kept[: len(self._gains)]]
        place = int(similarities.argmax())
        return float(similarities[place]), self._gains[place]


# The cheapest table ---------------------------------------------------------------------------------------------


def thresholds_over_requests(service: Service, alpha: float) -> Thresholds:
    """The cheapest table that, in service, keeps ``alpha`` of the quality of all requests, hits or not.

    Tried are the best tables for every price of quality, each as far down as any bin.
    """
    lowest = [_from(similarity) for similarity in service.similarities]
    best = {best_table(service, weight) for weight in _WEIGHTS}
    tables = {NEVER} | {truncated(table, similarity) for table in best for similarity in lowest}
    promises = {table: promise(service, table) for table in tables}
    good = [table for table, expected in promises.items() if expected.trace_quality >= alpha]
    return min(good, key=lambda table: (promises[table].cost, table.reach), default=NEVER)


def best_table(service: Service, weight: float) -> Thresholds:
    """Of all tables that which costs least on the pairs, where a loss of accuracy costs ``weight`` for each unit.

    From the highest bin down, with a skip that never rises: the least cost of everything so far that ends in each. A
    further row has to be worth something, or chance would make many.
    """
    skips = [*sorted(service.gains, reverse=True), *([0.0] if service.small is not None else []), None]
    least, chosen, row = np.zeros(len(skips)), [], _ROW * sum(service.pairs)
    for place in reversed(range(len(service.similarities))):
        ways = [least[: end + 1] + row * (np.arange(end + 1) < end) for end in range(len(skips))]
        costs = np.array([_cost(service, place, skip, weight) for skip in skips])
        least = np.array([way.min() for way in ways]) + service.pairs[place] * costs
        chosen.append([int(way.argmin()) for way in ways])
    return _table(service, skips, chosen, int(np.argmin(least)))


def _cost(service: Service, place: int, skip: float | None, weight: float) -> float:
    if skip is None:
        return 1.0
    gain = service.gains[skip][place] if skip else service.small or 0.0
    return service.run_cost * (1 - skip) - weight * (_LASTING if skip > TAKEN_OVER else 1.0) * gain


def _table(service: Service, skips: Sequence[float | None], chosen: Sequence[Sequence[int]], end: int) -> Thresholds:
    """Going back from the lowest bin: a row for the lowest bin of each skip."""
    rows: dict[float, float] = {}
    for similarity, from_ in zip(service.similarities, reversed(chosen), strict=True):
        skip = skips[end]
        if skip is not None and skip not in rows:
            rows[skip] = _from(similarity)
        end = from_[end]
    return Thresholds(tuple(Threshold(rows[skip], skip) for skip in sorted(rows, reverse=True)))


def _from(similarity: float) -> float:
    return round(similarity - SLACK, 6)


def truncated(table: Thresholds, similarity: float) -> Thresholds:
    """The table with nothing below a similarity."""
    rows = [row for row in table.rows if row.similarity > similarity]
    below = [row for row in table.rows if row.similarity <= similarity]
    return Thresholds((*rows, *(Threshold(similarity, row.skip) for row in below[:1])))
