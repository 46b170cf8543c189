"""``underpaint bench simulator``: the same arrivals through a real server and through the simulator.

Requests are pinned to variants, so that nothing is compared but queues, batches and how variants share the machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from underpaint.control.allocation import Allocation, Allocator, Fleet, Form, Load
from underpaint.control.demand import OURS
from underpaint.control.profile import Profile
from underpaint.control.simulation.jobs import RULES
from underpaint.control.simulation.population import population
from underpaint.control.simulation.run import simulate
from underpaint.control.simulation.scenario import Scenario
from underpaint.errors import InvalidArgument

PERCENTILES = (50, 95)
_FOREVER_S = 1e6


@dataclass(frozen=True)
class Trial:
    """What is asked for: ``load`` is the share of what the variants can do together, ``shares`` who is to do it."""

    name: str
    shares: dict[str, float]
    load: float

    def rate_per_s(self, profile: Profile) -> float:
        """Requests a second that make this load, if every variant paints at its best."""
        return self.load / sum(share / _best_per_s(profile, name) for name, share in self.shares.items())

    def arrivals(self, profile: Profile, seconds: float, seed: int) -> tuple[list[float], list[str]]:
        """When requests come, and whose each is; the same ones for the same seed."""
        random = np.random.default_rng(seed)
        count = max(1, int(random.poisson(self.rate_per_s(profile) * seconds)))
        names = list(self.shares)
        whose = random.choice(len(names), size=count, p=[self.shares[name] for name in names])
        return np.sort(random.random(count) * seconds).tolist(), [names[number] for number in whose]


@dataclass(frozen=True)
class Comparison:
    """Percentiles of latency in seconds, as served and as simulated."""

    trial: Trial
    requests: int
    served_s: dict[int, float]
    simulated_s: dict[int, float]

    @property
    def errors(self) -> dict[int, float]:
        """How far the simulator is off, as a share of what was served; above 0 where it was too pessimistic."""
        return {p: self.simulated_s[p] / self.served_s[p] - 1 for p in PERCENTILES}


def trials(profile: Profile, loads: Sequence[float]) -> list[Trial]:
    """Each variant alone, and the lightest and the heaviest together."""
    for load in loads:
        if not 0 < load < 1:
            raise InvalidArgument.of("loads", load, "shares of what the server can do, above 0 and below 1")
    light, heavy = profile.lightest.name, profile.heaviest.name
    found = [Trial(each.name, {each.name: 1.0}, load) for each in profile.variants for load in loads]
    if light != heavy:
        found += [Trial(f"half {light}, half {heavy}", {light: 0.5, heavy: 0.5}, load) for load in loads]
    return found


def simulated_s(profile: Profile, arrivals_s: Sequence[float], whose: Sequence[str]) -> list[float]:
    """Latency of every request, in seconds."""
    rules = replace(RULES[Form.CORRECTED], rescues=False)
    fleet = Fleet(1, slo_s=_FOREVER_S, period_s=60)
    scenario = Scenario(
        profile, population(profile, None, 0), arrivals_s, fleet, rules, OURS, opening_per_s=1.0, variants=whose
    )
    finished = simulate(scenario, _LargestBatches())
    return [job.latency_s for job in finished.jobs if job.latency_s is not None]


class _LargestBatches(Allocator):
    """Of every variant, all on the same device."""

    name = "largest-batches"

    def allocate(self, load: Load, profile: Profile, fleet: Fleet, present: Allocation | None = None) -> Allocation:
        batches = {each.name: each.latencies[-1].batch for each in profile.variants}
        return Allocation("vanilla", profile.lightest.name, profile.heaviest.name, {}, batches)


def _best_per_s(profile: Profile, variant: str) -> float:
    return max(each.images_per_s for each in profile.variant(variant).latencies)


def compare(trial: Trial, served: Sequence[float], simulated: Sequence[float]) -> Comparison:
    return Comparison(trial, len(served), _percentiles(served), _percentiles(simulated))


def _percentiles(latencies_s: Sequence[float]) -> dict[int, float]:
    return {p: float(np.percentile(latencies_s, p)) for p in PERCENTILES}
