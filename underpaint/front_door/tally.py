"""What the front door has done so far, for metrics."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from underpaint.front_door.outcome import Outcome

Counts = Counter[tuple[str, ...]]
# Evenly spaced logits from -6 to 6: most scores are near 0 or 1, where a threshold must be fine to be of use.
SCORE_EDGES = tuple(1 / (1 + math.exp(-quarter / 4)) for quarter in range(-24, 25))


def _says(help: str, *labels: str) -> dict[str, Any]:
    return {"help": help, "labels": labels}


@dataclass(frozen=True)
class Tally:
    """Counters since start. Each field is one metric, and says what it counts and by which labels."""

    arrivals: Counts = field(default_factory=Counter, metadata=_says("Requests that came and made sense", "policy"))
    requests: Counts = field(default_factory=Counter, metadata=_says("Requests answered with an image", "policy"))
    hits: Counts = field(
        default_factory=Counter,
        metadata=_says("Requests that started from the cache, by how many steps that saved", "policy", "skipped"),
    )
    fetch_seconds: Counts = field(
        default_factory=Counter, metadata=_says("Time that hits spent on fetching what they start from", "policy")
    )
    misses: Counts = field(
        default_factory=Counter, metadata=_says("Requests that did not, although their policy can", "policy", "reason")
    )
    steps_run: Counts = field(
        default_factory=Counter, metadata=_says("Denoising steps run for answered requests", "policy", "variant")
    )
    steps_skipped: Counts = field(
        default_factory=Counter, metadata=_says("Denoising steps saved by the cache", "policy", "variant")
    )
    guesses: Counts = field(
        default_factory=Counter, metadata=_says("Match predictions that were checked", "guessed", "found")
    )
    predicted_misses: Counts = field(
        default_factory=Counter, metadata=_says("Lookups not made because no match was expected")
    )
    remembered: Counts = field(default_factory=Counter, metadata=_says("Images offered to the cache", "result"))
    shadows: Counts = field(
        default_factory=Counter, metadata=_says("Hits that were painted in full as well, to compare", "policy")
    )
    shadow_agreement: Counts = field(
        default_factory=Counter,
        metadata=_says("The sum of their cosines to the prompt, from the cache and from noise", "policy", "start"),
    )
    scores: Counts = field(
        default_factory=Counter, metadata=_says("Scores up to le of difficulty or confidence", "score", "le")
    )
    escalations: Counts = field(
        default_factory=Counter, metadata=_says("Requests painted again by a larger variant", "policy")
    )
    downgrades: Counts = field(
        default_factory=Counter, metadata=_says("Requests done with less, to keep their promise", "kind")
    )
    refusals: Counts = field(
        default_factory=Counter,
        metadata=_says("Requests refused, since their promise could not be kept", "service_class"),
    )
    fallbacks: Counts = field(
        default_factory=Counter, metadata=_says("Requests answered with an image that was not vouched for", "reason")
    )
    trial_requests: Counts = field(
        default_factory=Counter,
        metadata=_says("Requests answered while two versions served", "candidate", "version"),
    )
    trial_failures: Counts = field(
        default_factory=Counter,
        metadata=_says("Requests that a version could not answer meanwhile", "candidate", "version"),
    )
    trial_latencies: Counts = field(
        default_factory=Counter,
        metadata=_says("Requests answered meanwhile within le seconds", "candidate", "version", "le"),
    )
    trial_judged: Counts = field(
        default_factory=Counter,
        metadata=_says("Images judged meanwhile, once they were answered", "candidate", "version"),
    )
    trial_confidences: Counts = field(
        default_factory=Counter,
        metadata=_says("The sum of what the discriminator gave them", "candidate", "version"),
    )

    def score(self, name: str, value: float) -> None:
        """Router or discriminator has given one; cumulative, as Prometheus' histograms are."""
        for edge in SCORE_EDGES:
            if value <= edge:
                self.scores[name, f"{edge:.4g}"] += 1
        self.scores[name, "+Inf"] += 1

    def count(self, outcome: Outcome) -> None:
        """A request has been answered."""
        self.requests[outcome.policy,] += 1
        if outcome.source is not None:
            self.hits[outcome.policy, str(outcome.steps_skipped)] += 1
            self.fetch_seconds[outcome.policy,] += round(outcome.timings_ms.fetch / 1e3, 6)  # type: ignore[assignment]
        elif outcome.miss is not None:
            self.misses[outcome.policy, outcome.miss] += 1
        if outcome.escalated_from is not None:
            self.escalations[outcome.policy,] += 1
            self.steps_run[outcome.policy, outcome.escalated_from.variant] += outcome.escalated_from.steps_run
        if outcome.downgrade is not None:
            self.downgrades[outcome.downgrade,] += 1
        if outcome.fallback is not None:
            self.fallbacks[outcome.fallback,] += 1
        self.steps_run[outcome.policy, outcome.variant] += outcome.steps_run
        self.steps_skipped[outcome.policy, outcome.variant] += outcome.steps_skipped
