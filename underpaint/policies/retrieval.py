"""The image of a similar prompt, returned as it is: what a semantic cache without diffusion would do."""

from __future__ import annotations

from underpaint.evidence import Evidence, Needs, Query, Reuse, Space
from underpaint.policies.plan import Finished, Keep, Noise, Plan, Policy, Settings
from underpaint.policies.thresholds import NEVER, Thresholds
from underpaint.requests import GenerateRequest


class Retrieval(Policy):
    """Text to text, as the retrieval baselines of the MoDM and Nirvana papers do it."""

    name = "retrieval"
    needs = Needs(matches=Query(Space.TEXT, Reuse.IMAGE))

    def thresholds(self, settings: Settings) -> Thresholds:
        return settings.calibration.retrieval if settings.calibration else NEVER

    def plan(self, request: GenerateRequest, evidence: Evidence, settings: Settings) -> Plan:
        variant, best = request.variant or settings.large, evidence.best
        if best is None or request.variant is not None or not self.thresholds(settings).skip(best.similarity):
            return Plan(variant, Noise())
        return Plan(variant, Finished(best))

    def keep(self, request: GenerateRequest, plan: Plan, settings: Settings) -> Keep | None:
        return Keep() if isinstance(plan.start, Noise) else None
