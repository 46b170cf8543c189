"""What ``underpaint calibrate`` paints: a workload in full, and most of it again from what is found, at every skip.

A query may be served from any request before it, so that matches are as similar, and as different, as they are in
service; the first requests only fill the store. The query's own full picture is what its other ones are compared with.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Protocol

import numpy as np

from underpaint.bench.calibration.pairs import Pair, Requests
from underpaint.bench.common.progress import Progress
from underpaint.bench.demand.load import work_off
from underpaint.bench.demand.workload import WorkItem, workload
from underpaint.bench.judging.quality import Embedder, attribute_accuracy, read_all
from underpaint.bench.serving.studio import Painted
from underpaint.deployment import Deployment
from underpaint.policies.nirvana import kept_steps
from underpaint.policies.thresholds import whole_steps

REFINE_SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
CONCURRENCY = 16


class Painter(Protocol):
    """Something like ``Studio``."""

    def from_noise(self, item: WorkItem, capture_steps: Sequence[int] = ()) -> Painted: ...

    def by_refiner(self, item: WorkItem) -> Painted: ...

    def from_image(self, item: WorkItem, source: Painted, skip: int) -> Painted: ...

    def from_latents(self, item: WorkItem, latents: np.ndarray, step: int) -> Painted: ...


class Scorers(Protocol):
    """Something like ``Scores``."""

    def difficulty(self, prompts: Sequence[str]) -> np.ndarray: ...

    def confidence(self, prompts: Sequence[str], pictures: np.ndarray) -> np.ndarray: ...


@dataclass(frozen=True)
class Plan:
    """How much is painted: ``stored`` requests that fill the store, then ``queries``. Which steps are skipped follows
    from how many the two variants have."""

    stored: int
    queries: int
    seed: int
    small_steps: int  # of the run that a refinement is the end of
    large_steps: int

    @classmethod
    def of(cls, deployment: Deployment, stored: int, queries: int, seed: int) -> Plan:
        refiner, large = (deployment.variant(name) for name in (deployment.refiner, deployment.large))
        return cls(stored, queries, seed, refiner.refinement_steps, large.num_inference_steps)

    @property
    def refine_skips(self) -> list[int]:
        return sorted({whole_steps(share, self.small_steps) for share in REFINE_SHARES} - {0})

    @property
    def resume_steps(self) -> list[int]:
        """Those that Nirvana keeps latents of."""
        return list(kept_steps(self.large_steps))

    @property
    def pictures(self) -> int:
        """In all."""
        requests = self.stored + self.queries
        return 2 * requests + self.queries * (2 * len(self.refine_skips) + len(self.resume_steps))


class Campaign:
    """Everything that is painted, as far as it has got."""

    def __init__(self, plan: Plan, painter: Painter, embedder: Embedder, scorers: Scorers | None = None) -> None:
        """``scorers``: router and discriminator, where the deployment has them."""
        self._scorers = scorers
        self._plan, self._painter, self._embedder = plan, painter, embedder
        self._items = list(islice(workload(plan.seed), plan.stored + plan.queries))
        self._queries = self._items[plan.stored :]
        self._full: list[Painted] = []
        self._small: list[Painted] = []
        self._embeddings: dict[str, np.ndarray] = {}
        self._by_image: list[Nearest] = []
        self._by_text: list[Nearest] = []
        self._refined: dict[int, list[Painted]] = {}
        self._reworded: dict[int, list[Painted]] = {}
        self._resumed: dict[int, list[Painted]] = {}

    def paint(self) -> bool:
        """Paint everything; False where Ctrl-C came first. What has been painted so far can be judged all the same."""
        with Progress(self._plan.pictures, "picture") as progress:
            try:
                self._paint(_Easel(progress))
            except KeyboardInterrupt:
                return False
        return True

    def _paint(self, easel: _Easel) -> None:
        plan, painter = self._plan, self._painter
        self._full = easel.paint("in full", lambda item, _: painter.from_noise(item, plan.resume_steps), self._items)
        self._small = easel.paint("by the small one", lambda item, _: painter.by_refiner(item), self._items)
        self._match()
        by_image, by_text = ([self._full[match.place] for match in found] for found in (self._by_image, self._by_text))
        for skip in plan.refine_skips:
            for refined, sources in ((self._refined, by_image), (self._reworded, by_text)):
                refine = partial(_refine, painter, sources, skip)
                refined[skip] = easel.paint(f"refined from step {skip}", refine, self._queries)
        latents = [source.latents for source in by_text]
        for step in plan.resume_steps:
            resume = partial(_resume, painter, latents, step)
            self._resumed[step] = easel.paint(f"resumed from step {step}", resume, self._queries)

    def _match(self) -> None:
        texts = self._embedder.texts([item.caption for item in self._items])
        large, small = (
            self._embedder.images(np.stack([each.image for each in painted])) for painted in (self._full, self._small)
        )
        self._embeddings = {"text": texts, "large": large, "small": small}
        self._by_image = nearest_before(texts, large, self._plan.stored)
        self._by_text = nearest_before(texts, texts, self._plan.stored)

    def embeddings(self) -> dict[str, list[list[float]]]:
        """See ``Measurements``."""
        return {name: own.round(6).tolist() for name, own in self._embeddings.items()}

    def pairs(self, requests: Requests) -> dict[str, tuple[Pair, ...]]:
        """By system, of everything that was painted for all queries."""
        if not self._by_text:
            return {}
        full = np.array(requests.full[self._plan.stored :])
        found = [self._full[match.place] for match in self._by_text]
        refined, reworded = (
            {n / self._plan.small_steps: self._accuracies(f"skip {n}", own) for n, own in painted.items()}
            for painted in (self._refined, self._reworded)
        )
        resumed = {n / self._plan.large_steps: self._accuracies(f"step {n}", own) for n, own in self._resumed.items()}
        return {
            "modm": _pairs(self._by_image, full, refined),
            "modm_text": _pairs(self._by_text, full, reworded),
            "nirvana": _pairs(self._by_text, full, resumed),
            "retrieval": _pairs(self._by_text, full, {1.0: self._accuracies("found pictures", found)}),
        }

    def requests(self) -> Requests:
        """See there; empty where Ctrl-C came before all of them were painted by both."""
        if not self._by_text:
            return Requests([], [])
        full, small = (
            self._accuracies(what, painted, self._items).tolist()
            for what, painted in (("full pictures", self._full), ("the small one's", self._small))
        )
        if self._scorers is None:
            return Requests(full, small)
        captions, scorers = [item.caption for item in self._items], self._scorers
        full_confidence, small_confidence = (
            scorers.confidence(captions, np.stack([each.image for each in painted])).round(6).tolist()
            for painted in (self._full, self._small)
        )
        return Requests(full, small, full_confidence, small_confidence, scorers.difficulty(captions).round(6).tolist())

    def _accuracies(self, what: str, painted: Sequence[Painted], items: Sequence[WorkItem] = ()) -> np.ndarray:
        """Of the queries' pictures, or of those of other ``items``."""
        scenes = [item.scene for item in items or self._queries]
        verdicts = read_all(np.stack([each.image for each in painted]), scenes, what)
        return np.array([attribute_accuracy(verdict) for verdict in verdicts])


def _refine(painter: Painter, sources: Sequence[Painted], skip: int, item: WorkItem, number: int) -> Painted:
    return painter.from_image(item, sources[number], skip)


def _resume(
    painter: Painter, latents: Sequence[dict[int, np.ndarray]], step: int, item: WorkItem, number: int
) -> Painted:
    return painter.from_latents(item, latents[number][step], step)


@dataclass(frozen=True)
class Nearest:
    """Which of the earlier requests, and how similar."""

    place: int
    similarity: float


def nearest_before(texts: np.ndarray, entries: np.ndarray, first: int) -> list[Nearest]:
    """For each request from ``first`` on, the entry of the greatest cosine among those of earlier requests.

    Rows are of unit length. Of equals the first.
    """
    found = []
    for number in range(first, len(texts)):
        similarities = entries[:number] @ texts[number]
        place = int(similarities.argmax())
        found.append(Nearest(place, round(float(similarities[place]), 6)))
    return found


class _Easel:
    """Paints lists of pictures, many at a time, and says how far it is."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def paint(self, what: str, one: Callable[[WorkItem, int], Painted], items: Sequence[WorkItem]) -> list[Painted]:
        """``one`` is given each item and its place."""
        self._progress.doing(what)
        done: dict[int, Painted] = {}

        def work(number: int) -> None:
            done[number] = one(items[number], number)
            self._progress.advance()

        work_off(work, len(items), CONCURRENCY)
        return [done[number] for number in range(len(items))]


def _pairs(matches: Sequence[Nearest], full: np.ndarray, by_skip: dict[float, np.ndarray]) -> tuple[Pair, ...]:
    return tuple(
        Pair(match.similarity, float(full[i]), {skip: float(own[i]) for skip, own in by_skip.items()})
        for i, match in enumerate(matches)
    )
