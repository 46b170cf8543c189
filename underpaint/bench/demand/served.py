"""What a policy served, and what each reply says of the work behind it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

import numpy as np

from underpaint.bench.demand.workload import WorkItem
from underpaint.client.pictures import Picture
from underpaint.front_door.outcome import First, Outcome

_FROM_NOISE = "noise"
_FROM_IMAGE = "cached_image"


@dataclass(frozen=True)
class Account:
    """The part of an outcome that costs are reckoned by.

    ``source``: what identifies the entry that was reused; ``source_seed``: the seed that it was painted with;
    ``timings_ms``: by stage, see ``outcome.Timings``. ``router_score``, ``confidence``, ``escalated_from``: of a
    cascade; the last is a painting that came before and was not good enough.
    """

    variant: str
    start: str
    steps: int
    steps_run: int
    guidance_scale: float
    source: str | None = None
    source_seed: int | None = None
    similarity: float | None = None
    timings_ms: Mapping[str, float] = field(default_factory=dict)
    router_score: float | None = None
    confidence: float | None = None
    escalated_from: First | None = None

    @classmethod
    def of(cls, outcome: Outcome) -> Account:
        source = outcome.source
        return cls(
            variant=outcome.variant,
            start=outcome.start,
            steps=outcome.num_inference_steps,
            steps_run=outcome.steps_run,
            guidance_scale=outcome.guidance_scale,
            source=None if source is None else str(source.entry_id),
            source_seed=None if source is None else source.seed,
            similarity=None if source is None else source.similarity,
            timings_ms=asdict(outcome.timings_ms),
            router_score=outcome.router_score,
            confidence=outcome.confidence,
            escalated_from=outcome.escalated_from,
        )

    @property
    def hit(self) -> bool:
        return self.start != _FROM_NOISE

    @property
    def from_image(self) -> bool:
        return self.start == _FROM_IMAGE

    @property
    def skipped(self) -> float:
        """Share of the steps that were not run."""
        return 1 - self.steps_run / self.steps


@dataclass(frozen=True, eq=False)
class Served:
    """One picture, uint8 [H, W, 3]. ``answered_s``: since the run began."""

    item: WorkItem
    image: np.ndarray
    account: Account
    latency_s: float
    answered_s: float

    @classmethod
    def of(cls, item: WorkItem, picture: Picture, sent_s: float, answered_s: float) -> Served:
        return cls(item, picture.image, Account.of(picture.outcome), answered_s - sent_s, answered_s)
