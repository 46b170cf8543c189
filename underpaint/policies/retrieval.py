"""What a semantic cache without diffusion would do; text to text, as the retrieval baselines of the MoDM and Nirvana
papers look things up."""

from __future__ import annotations

from underpaint.evidence import Evidence, Needs, Query, Reuse, Space
from underpaint.policies.plan import Finished, Keep, Noise, Plan, Policy, Settings
from underpaint.policies.thresholds import NEVER, Thresholds
from underpaint.requests import GenerateRequest


class Retrieval(Policy):
    """A similar prompt's image is the answer, as it is; what is new, the large variant paints."""

    name = "retrieval"
    needs = Needs(matches=Query(Space.TEXT, Reuse.IMAGE))

    def thresholds(self, settings: Settings) -> Thresholds:
        return settings.calibration.retrieval if settings.calibration else NEVER

    def alike(self, settings: Settings) -> float:
        return self.thresholds(settings).alike

    def plan(self, request: GenerateRequest, evidence: Evidence, settings: Settings) -> Plan:
        variant, best = request.variant or settings.large, evidence.best
        if best is None or request.variant is not None or not self.thresholds(settings).skip(best.similarity):
            return Plan(variant, Noise())
        return Plan(variant, Finished(best))

    def keep(self, request: GenerateRequest, plan: Plan, settings: Settings) -> Keep | None:
        return Keep() if isinstance(plan.start, Noise) else None
