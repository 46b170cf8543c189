"""What servers' metrics mean: arrivals, queues, and what the cache gives, over all servers that answered."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from underpaint.control.allocation import Load, Queue, Reuse
from underpaint.evidence import Miss
from underpaint.monitor.metrics import Sample

_DOOR = "underpaint_door"
_DENOISER = "underpaint_denoiser"


@dataclass(frozen=True)
class Reading:
    """What happened at one server, or at several together, in ``seconds``.

    Attributes:
        arrivals: requests that came, whatever became of them.
        answered: those that were answered with an image.
        waiting: requests that a variant's denoiser holds, now.
        hits: requests that started from the cache, or were left to the small variant for what is in it.
        steps_run, steps_skipped: denoising steps of those that were answered.
    """

    seconds: float
    arrivals: int = 0
    answered: int = 0
    waiting: Mapping[str, float] = field(default_factory=dict)
    hits: int = 0
    steps_run: float = 0.0
    steps_skipped: float = 0.0

    @classmethod
    def of(cls, now: Sample, grown: Sample) -> Reading:
        """From what an endpoint shows now, and how much each value has grown."""
        easy = grown.by(f"{_DOOR}_misses_total", "reason").get(Miss.EASY, 0.0)
        held = now.by(f"{_DENOISER}_running", "model") + now.by(f"{_DENOISER}_waiting", "model")
        return cls(
            seconds=grown.at,
            arrivals=round(grown.total(f"{_DOOR}_arrivals_total")),
            answered=round(grown.total(f"{_DOOR}_requests_total")),
            waiting={model.removesuffix("_denoiser"): count for model, count in held.items()},
            hits=round(grown.total(f"{_DOOR}_hits_total") + easy),
            steps_run=grown.total(f"{_DOOR}_steps_run_total"),
            steps_skipped=grown.total(f"{_DOOR}_steps_skipped_total"),
        )

    @classmethod
    def together(cls, readings: Sequence[Reading]) -> Reading:
        """Of several servers: counts add up; the longest window counts."""
        waiting: Counter[str] = Counter()
        for each in readings:
            waiting.update(each.waiting)
        return cls(
            seconds=max((each.seconds for each in readings), default=0.0),
            arrivals=sum(each.arrivals for each in readings),
            answered=sum(each.answered for each in readings),
            waiting=dict(waiting),
            hits=sum(each.hits for each in readings),
            steps_run=sum(each.steps_run for each in readings),
            steps_skipped=sum(each.steps_skipped for each in readings),
        )

    def load(self, arrivals_per_s: float) -> Load:
        """As allocators want to be told it. Every variant is taken to get what the demand is, for want of better."""
        queues = {name: Queue(waiting, arrivals_per_s) for name, waiting in self.waiting.items()}
        return Load(arrivals_per_s, queues, self.reuse())

    def reuse(self) -> Reuse:
        """Hits and what they skipped, as one class of the mean."""
        if not self.hits or not self.answered:
            return Reuse()
        hit_rate = min(1.0, self.hits / self.answered)
        steps = self.steps_run + self.steps_skipped
        skipped = min(1.0, self.steps_skipped / (steps * hit_rate)) if steps else 0.0
        return Reuse(hit_rate, {skipped: 1.0})
