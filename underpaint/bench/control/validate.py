"""``underpaint bench simulator``: the same requests through a real server and through the simulator.

Arrivals, policy, settings and what router and discriminator said of each request are the same; the simulator is told
nothing of the run but that. What remains to be compared are queues, batches by step, and how variants share a machine.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from underpaint.bench.demand.open_loop import Reply
from underpaint.control.allocation import Allocation, Fleet, Form
from underpaint.control.demand import OURS
from underpaint.control.profile import Profile
from underpaint.control.simulation.decisions import Decision
from underpaint.control.simulation.jobs import RULES
from underpaint.control.simulation.population import Population
from underpaint.control.simulation.run import simulate
from underpaint.control.simulation.scenario import Scenario
from underpaint.errors import InvalidArgument
from underpaint.policies import Settings, by_name

PERCENTILES = (50, 90, 99)
_FOREVER_S = 1e6  # nobody promises anything


@dataclass(frozen=True)
class Trial:
    """A policy under a load: the share of what the machine can do, if each variant paints at its best."""

    policy: str
    load: float

    def rate_per_s(self, profile: Profile, settings: Settings) -> float:
        """Requests a second that make this load, as far as shares come out as the settings plan them."""
        return self.load / sum(
            share / _best_per_s(profile, name) for name, share in _work(self.policy, settings).items()
        )

    def arrivals_s(self, rate_per_s: float, seconds: float, seed: int) -> list[float]:
        """When requests come: a Poisson process, the same one for the same seed."""
        random = np.random.default_rng(seed)
        return np.sort(random.random(int(random.poisson(rate_per_s * seconds)) or 1) * seconds).tolist()


@dataclass(frozen=True)
class Comparison:
    """Percentiles of latency in seconds, as served and as simulated."""

    trial: Trial
    requests: int
    rate_per_s: float
    escalated: int
    served_s: dict[int, float]
    simulated_s: dict[int, float]

    @property
    def errors(self) -> dict[int, float]:
        """How far the simulator is off, as a share of what was served; above 0 where it was too pessimistic."""
        return {p: self.simulated_s[p] / self.served_s[p] - 1 for p in PERCENTILES}


def trials(policies: Sequence[str], loads: Sequence[float]) -> list[Trial]:
    for load in loads:
        if not 0 < load < 1:
            raise InvalidArgument.of("loads", load, "shares of what the server can do, above 0 and below 1")
    for policy in policies:
        if policy not in _POLICIES:
            raise InvalidArgument.of("policies", policy, ", ".join(_POLICIES))
    return [Trial(policy, load) for policy in policies for load in loads]


def simulated_s(
    profile: Profile,
    policy: str,
    settings: Settings,
    arrivals_s: Sequence[float],
    replies: Sequence[Reply],
    runs: int = 1,
) -> list[float]:
    """Latency of every request, in seconds, of ``runs`` in which single images take otherwise long by chance.

    ``replies``: of the server, for the scores, by rising number.
    """
    small, large = settings.small, settings.large
    accounts = [reply.account for reply in replies]
    router = [0.0 if each is None or each.router_score is None else each.router_score for each in accounts]
    confidence = [1.0 if each is None or each.confidence is None else each.confidence for each in accounts]
    people = Population(np.array(router), {small: np.array(confidence), large: np.ones(len(accounts))})
    scenario = Scenario(
        profile,
        people,
        arrivals_s,
        Fleet(1, slo_s=_FOREVER_S, period_s=60),
        replace(RULES[Form.CORRECTED], rescues=False),
        OURS,
        opening_per_s=1.0,
        prompts=range(len(accounts)),
    )
    decision = Decision(Allocation(policy, small, large, {}, {}), by_name(policy), settings)
    jobs = [job for seed in range(runs) for job in simulate(replace(scenario, seed=seed), decision).jobs]
    return [job.latency_s for job in jobs if job.latency_s is not None]


def compare(trial: Trial, rate_per_s: float, replies: Sequence[Reply], simulated: Sequence[float]) -> Comparison:
    escalated = sum(reply.account is not None and reply.account.escalated_from is not None for reply in replies)
    served = [reply.latency_s for reply in replies]
    return Comparison(trial, len(served), rate_per_s, escalated, _percentiles(served), _percentiles(simulated))


_POLICIES = ("vanilla", "small", "diffserve", "hadis")  # that need no cache


def _work(policy: str, settings: Settings) -> dict[str, float]:
    """Images of each variant for a request."""
    direct = {"vanilla": 1.0, "hadis": settings.hard_share}.get(policy, 0.0)
    deferred = settings.defer_share if by_name(policy).judges else 0.0
    return {settings.small: 1 - direct, settings.large: direct + (1 - direct) * deferred}


def _best_per_s(profile: Profile, variant: str) -> float:
    return max(each.images_per_s for each in profile.variant(variant).latencies)


def _percentiles(latencies_s: Sequence[float]) -> dict[int, float]:
    return {p: float(np.percentile(latencies_s, p)) if latencies_s else math.nan for p in PERCENTILES}
