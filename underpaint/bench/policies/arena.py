"""Where policies meet: one server, the requests of one workload, then the judge."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from underpaint.bench.common.patience import insist
from underpaint.bench.common.processor import Seconds
from underpaint.bench.common.progress import Progress
from underpaint.bench.demand.load import work_off
from underpaint.bench.demand.workload import WorkItem, workload
from underpaint.bench.judging.clip import Clip
from underpaint.bench.judging.flops import VariantCost
from underpaint.bench.judging.quality import Embedder
from underpaint.bench.policies.contest import Contest, Pace, cost_ratio, hold, images_in_all, speed
from underpaint.bench.policies.results import Costs, Jury, PolicyResult, judge_all, results
from underpaint.bench.serving.dials import Dials, borrowed
from underpaint.bench.serving.site import PATIENCE_S, Paint, painter, site, variant_painter
from underpaint.client.pictures import Picture
from underpaint.client.serving import deployment_of
from underpaint.client.sync_client import Client
from underpaint.deployment import Deployment
from underpaint.errors import InvalidArgument
from underpaint.policies import POLICIES, Calibration

_RANDOM_MIX, _MODM = "random-mix", "modm"


@dataclass(frozen=True)
class Entrant:
    """A policy, and the thresholds that it goes by; None for those that the repository has."""

    name: str
    policy: str
    calibration: Calibration | None = None

    @property
    def alpha(self) -> float | None:
        return None if self.calibration is None else self.calibration.alpha


def entrants(policies: Sequence[str], calibrations: Sequence[Calibration]) -> list[Entrant]:
    """Every policy, by the first calibration; those that reuse anything, also by each of the others."""
    first = calibrations[0] if calibrations else None
    entered = [Entrant(policy, policy, first if uses_cache(policy) else None) for policy in policies]
    for calibration in calibrations[1:]:
        varied = [policy for policy in policies if uses_cache(policy)]
        entered += [Entrant(f"{policy} α={calibration.alpha:g}", policy, calibration) for policy in varied]
    return entered


def uses_cache(policy: str) -> bool:
    """Whether what was painted before matters to it."""
    return policy in POLICIES and POLICIES[policy].needs.matches is not None


@dataclass(frozen=True)
class Order:
    """What a run is asked to do. ``warm``: requests that go ahead of those that count, into every cache."""

    entrants: tuple[Entrant, ...]
    requests: int
    seed: int
    warm: int
    pace: Pace
    url: str | None = None


@dataclass(frozen=True, eq=False)
class Match:
    """One contest, judged. ``small_cost``: an image of the small variant in images of the large one, in time."""

    contest: Contest
    jury: Jury
    results: dict[str, PolicyResult]
    small_cost: float


@dataclass(frozen=True, eq=False)
class Arena:
    """A model repository, and what it takes to judge what is painted with it."""

    repository: Path
    deployment: Deployment
    flops: dict[str, VariantCost]
    embedder: Embedder | None

    @classmethod
    def open(cls, repository: Path) -> Arena:
        """
        Raises:
            InvalidArgument: it is not a model repository with all that this takes.
        """
        deployment = deployment_of(repository)
        flops = {name: VariantCost.read(repository, name) for name in deployment.variants}
        try:
            embedder: Embedder | None = Clip(repository, deployment.family)
        except InvalidArgument as error:
            print(f"underpaint: warning: no FID and no CLIP score: {error}", file=sys.stderr)
            embedder = None
        return cls(repository, deployment, flops, embedder)

    def play(self, order: Order) -> Match:
        """Serve everything, on a server of its own unless the order names one, and have it judged."""
        # The controls are made of the same two variants as MoDM.
        small, large = self.deployment.refiner, self.deployment.large
        with (
            borrowed(self.repository) as repository,
            nullcontext(None) if order.url else site(repository) as own,
            Client(own.url if own else str(order.url), timeout_s=PATIENCE_S) as client,
        ):
            client.wait_ready()
            print(f"measuring {small} against {large} …", file=sys.stderr, flush=True)
            small_cost = cost_ratio(variant_painter(client), small, large, order.pace)
            dials = Dials(repository, small) if order.url is None else None
            prepare = _Preparation(order, dials, small_cost)
            contest = _contest(order, painter(client), prepare, own.processor if own else dict)
        jury = judge_all(contest, self.embedder)
        return Match(contest, jury, results(contest, jury, Costs(self.flops, small, small_cost)), small_cost)


class _Preparation:
    """Sets thresholds and shares as the next slice wants them, where the server is ours.

    The random mix is to be a control for MoDM, so it gets the share that makes it as fast as MoDM was in its latest
    slice: MoDM finds more from slice to slice, and so both are as fast over all.
    """

    def __init__(self, order: Order, dials: Dials | None, small_cost: float) -> None:
        self._entrants = {entrant.name: entrant for entrant in order.entrants}
        self._dials, self._small_cost = dials, small_cost

    def __call__(self, name: str, contest: Contest) -> None:
        entrant = self._entrants.get(name)
        if self._dials is None or entrant is None:
            return
        if entrant.calibration is not None:
            self._dials.calibrate(entrant.calibration)
        if entrant.policy == _RANDOM_MIX and any(each.policy == _MODM for each in contest.slices):
            self._dials.share(share_at_pace(speed(contest.slices, _MODM).slice_ratios[-1], self._small_cost))


def share_at_pace(throughput_ratio: float, small_cost: float) -> float:
    """Of requests that the small variant must paint for a random mix to be as fast as that beside vanilla."""
    if small_cost >= 1:
        return 1.0
    return round(min(max((1 - 1 / throughput_ratio) / (1 - small_cost), 0.0), 1.0), 3)


def _contest(order: Order, paint: Paint, prepare: _Preparation, processor: Callable[[], Seconds] = dict) -> Contest:
    items = list(islice(workload(order.seed), order.warm + order.requests))
    ahead, counted = items[: order.warm], items[order.warm :]
    names = [entrant.name for entrant in order.entrants]
    policies = {entrant.name: entrant.policy for entrant in order.entrants}
    warmed = [entrant.name for entrant in order.entrants if uses_cache(entrant.policy)]
    total = len(warmed) * len(ahead) + images_in_all(names, len(counted), order.pace)
    with Progress(total, "picture") as progress:

        def paint_by_name(name: str, item: WorkItem) -> Picture:
            return paint(policies.get(name, name), name, item)

        def tell(name: str) -> None:
            progress.doing(name)
            progress.advance()

        for name in warmed:
            prepare(name, Contest(names))
            warm_up(name, ahead, paint_by_name, tell, order.pace.concurrency)
        return hold(names, counted, paint_by_name, order.pace, prepare, tell, processor)


def warm_up(
    name: str,
    items: Sequence[WorkItem],
    paint: Callable[[str, WorkItem], Picture],
    tell: Callable[[str], None],
    concurrency: int,
) -> None:
    """Fill the cache of an entrant with what it makes of earlier requests, as it would have done on its own."""

    def work(number: int) -> None:
        insist(lambda: paint(name, items[number]))
        tell(name)

    work_off(work, len(items), concurrency)
