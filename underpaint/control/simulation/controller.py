"""The monitor's part in a simulation: once a period from arrivals and queues to an allocation, and to settings."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from underpaint.control.allocation import Allocation, Allocator, Load, Queue
from underpaint.control.demand import Demand
from underpaint.control.quantiles import Quantiles
from underpaint.control.simulation.decisions import Decision, decide
from underpaint.control.simulation.scenario import Scenario, Window

_CORPUS = 500  # scores that live thresholds begin with, before any request has come
_CORPUS_WEIGHT = 0.2  # of each, beside one that was seen
_HALF_LIFE_S = 120.0  # after which a score that was seen weighs half


class Controller:
    """Asks the allocator, and keeps what the server's scores were. What was decided once and for all stays."""

    def __init__(self, scenario: Scenario, allocator: Allocator | Decision, random: np.random.Generator) -> None:
        self._scenario, self._allocator, self._random = scenario, allocator, random
        self._demand = Demand(scenario.smoothing)
        self._router = self._corpus(scenario.population.router)
        self._small = scenario.profile.lightest.name
        self._confidence = self._corpus(scenario.population.confidence[self._small])
        self.windows: list[Window] = []
        self.decision = self._decide(0.0, scenario.opening_per_s, {}, None)

    def saw_prompt(self, score: float) -> None:
        """The router's score of a request."""
        if self._scenario.rules.live:
            self._router.add(score)

    def saw_image(self, score: float) -> None:
        """The discriminator's score of a small image."""
        if self._scenario.rules.live:
            self._confidence.add(score)

    def step(self, now_s: float, arrivals: int, queues: Mapping[str, Queue]) -> None:
        """A period is over: so many requests came in it."""
        period_s = self._scenario.fleet.period_s
        self._demand.count(arrivals, period_s)
        if self._scenario.rules.live:
            for scores in (self._router, self._confidence):
                scores.fade(0.5 ** (period_s / _HALF_LIFE_S))
        self.decision = self._decide(now_s, self._demand.per_s, queues, self.decision.allocation)

    def _decide(
        self, now_s: float, demand_per_s: float, queues: Mapping[str, Queue], present: Allocation | None
    ) -> Decision:
        scenario, allocator = self._scenario, self._allocator
        if isinstance(allocator, Decision):
            self.windows.append(Window(now_s, demand_per_s, allocator.allocation))
            return allocator
        load = Load(demand_per_s, queues, scenario.population.reuse)
        allocation = allocator.allocate(load, scenario.profile, scenario.fleet, present)
        self.windows.append(Window(now_s, demand_per_s, allocation))
        if allocation.small != self._small:  # whose scores are others
            self._small = allocation.small
            self._confidence = self._corpus(scenario.population.confidence[self._small])
        return decide(allocation, scenario.steps, self._router, self._confidence)

    def _corpus(self, scores: np.ndarray) -> Quantiles:
        """Scores to begin with: all of them where thresholds are fixed, else a sample such as a calibration has."""
        if not self._scenario.rules.live:
            return Quantiles.of(scores)
        sketch = Quantiles.of(scores[self._random.integers(len(scores), size=_CORPUS)])
        sketch.fade(_CORPUS_WEIGHT)
        return sketch
