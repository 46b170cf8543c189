"""What is simulated, and what comes of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from underpaint.control.allocation import Allocation, Fleet
from underpaint.control.demand import Smoothing
from underpaint.control.profile import Profile
from underpaint.control.simulation.jobs import Job, Rules
from underpaint.control.simulation.population import Population


@dataclass(frozen=True)
class Scenario:
    """
    Attributes:
        arrivals_s: when requests come, rising.
        opening_per_s: the demand that the first allocation is made for.
        prompts: which one of the population each request is; empty to draw them.
    """

    profile: Profile
    population: Population
    arrivals_s: Sequence[float]
    fleet: Fleet
    rules: Rules
    smoothing: Smoothing
    opening_per_s: float
    seed: int = 0
    prompts: Sequence[int] = ()

    @property
    def steps(self) -> dict[str, int]:
        """Of every variant."""
        return {each.name: each.steps for each in self.profile.variants}


@dataclass(frozen=True)
class Window:
    """What was decided at a time, and the demand that it was decided for."""

    start_s: float
    demand_per_s: float
    allocation: Allocation


@dataclass(frozen=True)
class Run:
    """``swaps``: how often a device changed its variant."""

    jobs: Sequence[Job]
    windows: Sequence[Window]
    swaps: int
