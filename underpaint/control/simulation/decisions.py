"""An allocation as a policy and its settings: which thresholds leave the planned shares of requests to whom."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import accumulate

from underpaint.control.allocation import Allocation
from underpaint.control.profile import Profile
from underpaint.control.quantiles import Quantiles
from underpaint.evidence import Evidence, Measured
from underpaint.policies import Calibration, Plan, Policy, Settings, by_name
from underpaint.policies.modm import PUBLISHED as MODM_THRESHOLDS
from underpaint.policies.random_mix import lot
from underpaint.policies.vanilla import Vanilla
from underpaint.requests import GenerateRequest


@dataclass(frozen=True)
class Decision:
    """What decides about requests until the next allocation."""

    allocation: Allocation
    policy: Policy
    settings: Settings

    def plan(self, request: GenerateRequest, evidence: Evidence) -> Plan:
        """As the server would; where an allocation splits requests blindly, the request's lot is its variant."""
        if self.allocation.shares:
            return self.policy.plan(pinned(request, self.allocation.shares), evidence, self.settings)
        return self.policy.plan(request, evidence, self.settings)


def decide(allocation: Allocation, steps: Mapping[str, int], router: Quantiles, confidence: Quantiles) -> Decision:
    """
    Args:
        steps: of every variant.
        router, confidence: scores of prompts, and of the small variant's images, as seen so far.
    """
    settings = Settings(
        small=allocation.small,
        large=allocation.large,
        default_steps=steps,
        calibration=Calibration("", "", "", 1.0, modm=MODM_THRESHOLDS),
        confidence_threshold=_confidence_threshold(allocation, confidence),
        router_threshold=_cutoff(router, 1 - allocation.direct),
        defer_share=allocation.deferred,
        hard_share=allocation.direct,
    )
    policy = Vanilla() if allocation.shares else by_name(allocation.policy)
    return Decision(allocation, policy, settings)


def _confidence_threshold(allocation: Allocation, confidence: Quantiles) -> float | None:
    if allocation.confidence is not None:
        return allocation.confidence
    return _cutoff(confidence, allocation.deferred)


def _cutoff(scores: Quantiles, share: float) -> float | None:
    """The score that a share lies below; None for none and all of them, which no score stands for."""
    return scores.quantile(share) if 0 < share < 1 and scores.weight else None


def pinned(request: GenerateRequest, shares: Mapping[str, float]) -> GenerateRequest:
    """With the variant that the request's lot falls on."""
    names, limits = list(shares), list(accumulate(shares.values()))
    drawn = bisect_right(limits, lot(request) * limits[-1])
    return replace(request, variant=names[min(drawn, len(names) - 1)])


def measured(profile: Profile) -> Measured:
    """What the server would have measured of its variants: lone images, and what each is worth of a device's time."""
    lone_s = {each.name: each.seconds(1) for each in profile.variants}
    work_s = {each.name: each.work_s for each in profile.variants} if profile.step_batching else lone_s
    steps = {each.name: each.steps for each in profile.variants}
    return Measured(
        step_ms={name: 1000 * seconds / steps[name] for name, seconds in lone_s.items()},
        work_ms={name: 1000 * seconds / steps[name] for name, seconds in work_s.items()},
    )
