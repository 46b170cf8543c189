"""What thresholds would do in service, and the cheapest that keep a share of the quality of all requests.

What they let be painted is what later requests find, so their promise is reckoned by sending the requests that were
measured past a store that is empty at first, in their order. Whole-trace quality is (1-h) + h·q: hits that are not
quite as good can be afforded by the misses, and so can requests that are left to the small variant.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from underpaint.bench.calibration.pairs import SLACK, Bin, Measurements, Requests, bins, isotonic
from underpaint.policies import Settings
from underpaint.policies.plan import TAKEN_OVER
from underpaint.policies.thresholds import NEVER, Threshold, Thresholds

if TYPE_CHECKING:
    from numpy.typing import NDArray

# What accuracy is worth when a table is made, in full pictures a unit: a sweep, since α alone does not tell. Not below
# 16: whatever the others afford, nobody is given what he did not ask for to save one painting.
_WEIGHTS = tuple(2.0 ** (power / 2) for power in range(8, 21))
_LASTING = 4.0  # so many times as much where a picture is taken over: if it is wrong, it is for all who come after
_ROW = 0.005  # what a further row must save, in full pictures a request
_SHARES = np.linspace(0.0, 1.0, 41)  # of the prompts, that the router does not call hard


@dataclass(frozen=True)
class Rules:
    """What a system goes by: its table, and ``hard``, the router's score from which the large variant paints what
    nothing similar was found for; None where it paints all of that."""

    table: Thresholds
    hard: float | None = None


@dataclass(frozen=True, eq=False)
class Misses:
    """What becomes of each request, should nothing similar be found for it. Arrays of [N].

    Attributes:
        easy: bool, whether the small variant paints it.
        gains: float, what that adds to the accuracy of a full picture; 0 for a full picture.
        costs: float, in full pictures.
        kept: bool, whether it is good enough for the store.
    """

    easy: NDArray[np.bool_]
    gains: NDArray[np.float64]
    costs: NDArray[np.float64]
    kept: NDArray[np.bool_]

    @classmethod
    def of(cls, requests: Requests, hard: float | None, small_cost: float) -> Misses:
        """With the discriminator that ``Settings.least_confidence`` is asked of, if there is one."""
        full, small = np.array(requests.full), np.array(requests.small)
        good, small_good = (
            np.array(confidence) >= Settings.least_confidence if confidence else np.ones(len(full), bool)
            for confidence in (requests.full_confidence, requests.small_confidence)
        )
        easy = np.zeros(len(full), bool) if hard is None else np.array(requests.difficulty) < hard
        gains, costs = np.where(easy, small - full, 0.0), np.where(easy, small_cost, 1.0)
        return cls(easy, gains, costs, np.where(easy, small_good, good))


@dataclass(frozen=True, eq=False)
class Service:
    """One system, as far as it was measured.

    Attributes:
        to_large, to_small: float32 [N, N], the similarity of each request (row) to what a variant paints of each.
        similarities: of bins of pairs, rising; ``pairs``: how many each holds.
        gains: by skip, what it adds to the accuracy of a full picture, mostly less than 0, by bin; made to rise.
        requests: all of them, in their order.
        refines: whether the small variant serves hits, and may serve misses; else the large one serves all.
        run_cost: what a whole run of the variant that serves hits computes, in runs of the large one.
    """

    to_large: NDArray[np.float32]
    to_small: NDArray[np.float32]
    similarities: Sequence[float]
    pairs: Sequence[int]
    gains: dict[float, Sequence[float]]
    requests: Requests
    refines: bool
    run_cost: float

    @classmethod
    def of(cls, measured: Measurements, system: str) -> Service:
        pairs, cut = measured.pairs[system], bins(measured.pairs[system])
        weights = [each.pairs for each in cut]
        to_large, to_small = measured.similarities(system)
        return cls(
            to_large=to_large,
            to_small=to_small,
            similarities=[each.similarity for each in cut],
            pairs=weights,
            gains={skip: isotonic([_gain(each, skip) for each in cut], weights) for skip in pairs[0].by_skip},
            requests=measured.requests,
            refines=system.startswith("modm"),
            run_cost=measured.run_cost[system],
        )

    @property
    def full(self) -> float:
        """Mean accuracy of full pictures."""
        return float(np.mean(self.requests.full))

    def gain(self, skip: float, similarity: float) -> float:
        """What skipping so much adds to the accuracy, on a source that the large variant has painted in full."""
        return float(np.interp(similarity, self.similarities, self.gains[skip]))

    def misses(self, hard: float | None) -> Misses:
        return Misses.of(self.requests, hard, self.run_cost)


def _gain(each: Bin, skip: float) -> float:
    return each.by_skip[skip] - each.full


# In service -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Promise:
    """What rules would do to the requests that they were made from, each share and mean over all of them.

    ``quality``: of the hits, over full quality; None without hits. ``trace_quality``: of all. ``easy``: painted by the
    small variant, from noise. ``cost``: computation, in that of full pictures.
    """

    hit_rate: float
    easy: float
    steps_skipped: float
    quality: float | None
    trace_quality: float
    cost: float


@dataclass(frozen=True)
class _Served:
    """``skip``: None for a miss; ``gain``: see ``Service``; ``cost``: in full pictures; ``easy``: see ``Promise``."""

    skip: float | None
    gain: float
    cost: float
    easy: bool = False


def promise(service: Service, rules: Rules) -> Promise:
    served = list(_serve(service, rules))
    hits = [each.gain for each in served if each.skip]
    return Promise(
        hit_rate=len(hits) / len(served),
        easy=float(np.mean([each.easy for each in served])),
        steps_skipped=float(np.mean([each.skip or 0.0 for each in served])),
        quality=1 + float(np.mean(hits)) / service.full if hits else None,
        trace_quality=1 + float(np.mean([each.gain for each in served])) / service.full,
        cost=float(np.mean([each.cost for each in served])),
    )


def _serve(service: Service, rules: Rules) -> Iterator[_Served]:
    """One request after the other: it finds what was kept of those before it, with whatever that has lost already."""
    misses = service.misses(rules.hard)
    large, small = _Shelf(service.to_large), _Shelf(service.to_small)
    for number in range(len(service.to_large)):
        similarity, inherited = max(large.best(number), small.best(number))
        row = rules.table.row(similarity)
        if row is None:
            gain, easy = float(misses.gains[number]), bool(misses.easy[number])
            if misses.kept[number]:
                (small if easy else large).keep(number, gain)
            yield _Served(None, gain, float(misses.costs[number]), easy)
            continue
        shallow = row.skip <= TAKEN_OVER  # so that it is painted anew rather than taken over
        gain = service.gain(row.skip, similarity) + (0.0 if shallow else inherited)
        if shallow:
            (small if service.refines else large).keep(number, gain)
        yield _Served(row.skip, gain, service.run_cost * (1 - row.skip))


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


# The cheapest rules ---------------------------------------------------------------------------------------------


def cheapest(service: Service, alpha: float) -> Rules:
    """What costs least of all that, in service, keeps ``alpha`` of the quality of all requests, hits or not.

    Tried are the best tables for every price of quality, with every fortieth of the prompts left to the small variant.
    """
    hard: list[float | None] = [None]
    if service.refines and service.requests.difficulty:
        hard += np.quantile(service.requests.difficulty, _SHARES[1:]).round(6).tolist()
    tried = {Rules(best_table(service, weight, each), each) for each in hard for weight in _WEIGHTS}
    promises = {rules: promise(service, rules) for rules in tried | {Rules(NEVER)}}
    good = [rules for rules, expected in promises.items() if expected.trace_quality >= alpha]
    return min(good, key=lambda rules: (promises[rules].cost, rules.table.reach), default=Rules(NEVER))


def best_table(service: Service, weight: float, hard: float | None = None) -> Thresholds:
    """Of all tables that which costs least on the pairs, where a loss of accuracy costs ``weight`` for each unit.

    From the highest bin down, with a skip that never rises: the least cost of everything so far that ends in each. A
    further row has to be worth something, or chance would make many.
    """
    misses = service.misses(hard)
    miss = float(misses.costs.mean() - weight * misses.gains.mean())
    skips = [*sorted(service.gains, reverse=True), None]
    least, chosen, row = np.zeros(len(skips)), [], _ROW * sum(service.pairs)
    for place in reversed(range(len(service.similarities))):
        ways = [least[: end + 1] + row * (np.arange(end + 1) < end) for end in range(len(skips))]
        costs = np.array([miss if skip is None else _cost(service, place, skip, weight) for skip in skips])
        least = np.array([way.min() for way in ways]) + service.pairs[place] * costs
        chosen.append([int(way.argmin()) for way in ways])
    return _table(service, skips, chosen, int(np.argmin(least)))


def _cost(service: Service, place: int, skip: float, weight: float) -> float:
    worth = weight * (_LASTING if skip > TAKEN_OVER else 1.0)
    return service.run_cost * (1 - skip) - worth * service.gains[skip][place]


def _table(service: Service, skips: Sequence[float | None], chosen: Sequence[Sequence[int]], end: int) -> Thresholds:
    """Going back from the lowest bin: a row for the lowest bin of each skip."""
    rows: dict[float, float] = {}
    for similarity, from_ in zip(service.similarities, reversed(chosen), strict=True):
        skip = skips[end]
        if skip is not None and skip not in rows:
            rows[skip] = round(similarity - SLACK, 6)
        end = from_[end]
    return Thresholds(tuple(Threshold(rows[skip], skip) for skip in sorted(rows, reverse=True)))
