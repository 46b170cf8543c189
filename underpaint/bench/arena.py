"""Where policies meet: one server, the requests of one workload, then the judge."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from tqdm import tqdm

from underpaint.bench.clip import Clip
from underpaint.bench.flops import VariantCost
from underpaint.bench.load import work_off
from underpaint.bench.policies import Contest, Pace, Paint, cost_ratio, hold, images_in_all
from underpaint.bench.quality import Embedder
from underpaint.bench.results import Costs, Jury, PolicyResult, judge_all, results
from underpaint.bench.serving import PATIENCE_S, painter, server, variant_painter
from underpaint.bench.workload import WorkItem, workload
from underpaint.client.serving import deployment_of
from underpaint.client.sync_client import Client
from underpaint.deployment import Deployment
from underpaint.errors import InvalidArgument
from underpaint.policies import POLICIES, Calibration

_DOORS = ("generate", "generate_stream")


@dataclass(frozen=True)
class Order:
    """What a run is asked to do. ``warm``: requests that go ahead of those that count, into every cache."""

    policies: tuple[str, ...]
    requests: int
    seed: int
    warm: int
    pace: Pace
    url: str | None = None


@dataclass(frozen=True, eq=False)
class Match:
    """One contest, judged."""

    contest: Contest
    jury: Jury
    results: dict[str, PolicyResult]


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

    def play(self, order: Order, repository: Path | None = None) -> Match:
        """Serve everything, on a server of its own unless the order names one, and have it judged.

        Args:
            repository: served instead of the arena's own; they differ in nothing but thresholds.
        """
        with (
            server(order.url, repository or self.repository) as url,
            Client(url, timeout_s=PATIENCE_S) as client,
        ):
            client.wait_ready()
            small, large = self.deployment.small, self.deployment.large
            _say(f"measuring {small} against {large} …")
            small_cost = cost_ratio(variant_painter(client), small, large, order.pace)
            contest = _contest(order, painter(client))
        jury = judge_all(contest, self.embedder)
        return Match(contest, jury, results(contest, jury, Costs(self.flops, small, small_cost)))


def uses_cache(policy: str) -> bool:
    """Whether what was painted before matters to it."""
    return policy in POLICIES and POLICIES[policy].needs.matches is not None


def _contest(order: Order, paint: Paint) -> Contest:
    items = list(islice(workload(order.seed), order.warm + order.requests))
    ahead, counted = items[: order.warm], items[order.warm :]
    warmed = [policy for policy in order.policies if uses_cache(policy)]
    total = len(warmed) * len(ahead) + images_in_all(order.policies, len(counted), order.pace)
    with tqdm(total=total, unit="picture", disable=not sys.stderr.isatty(), leave=False, dynamic_ncols=True) as bar:

        def tell(policy: str) -> None:
            bar.set_description(policy, refresh=False)
            bar.update()

        for policy in warmed:
            warm_up(policy, ahead, paint, order.pace.concurrency)
            bar.update(len(ahead))
        return hold(order.policies, counted, paint, order.pace, tell)


def warm_up(policy: str, items: Sequence[WorkItem], paint: Paint, concurrency: int) -> None:
    """Fill the cache of a policy with what it makes of earlier requests, as it would have done on its own."""
    work_off(lambda number: paint(policy, items[number]), len(items), concurrency)


@contextmanager
def repository_with(calibration: Calibration, repository: Path) -> Iterator[Path]:
    """A model repository that differs from ``repository`` in its thresholds alone; its weights are links."""
    with tempfile.TemporaryDirectory(prefix="underpaint-bench-") as name:
        folder = Path(name)
        for model in repository.resolve().iterdir():
            if model.name in _DOORS:
                shutil.copytree(model, folder / model.name)
                calibration.save(folder / model.name / "1")
            else:
                (folder / model.name).symlink_to(model, target_is_directory=model.is_dir())
        yield folder


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
