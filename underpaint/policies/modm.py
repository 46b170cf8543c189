"""MoDM: a similar finished image is noised up and refined by a smaller variant; what is new, the large one paints.

"MoDM: Efficient Serving for Image Generation via Mixture-of-Diffusion Models", ASPLOS 2026, doi
10.1145/3760250.3762220: text-to-image retrieval, and a number of steps to skip by thresholds on the similarity.
"""

from __future__ import annotations

import math

from underpaint.evidence import Evidence, Match, Needs, Query, Reuse, Space
from underpaint.policies.plan import CachedImage, Keep, Noise, Plan, Policy, Settings
from underpaint.policies.thresholds import NEVER, Thresholds, whole_steps
from underpaint.requests import GenerateRequest

# Figure 5b: CLIP ViT-L/14, 30, 25, 15, 10 and 5 of 50 steps. For simulations; a server goes by its own calibration.
PUBLISHED = Thresholds.of((0.30, 0.6), (0.29, 0.5), (0.28, 0.3), (0.27, 0.2), (0.25, 0.1))


class Modm(Policy):
    name = "modm"
    needs = Needs(matches=Query(Space.IMAGE, Reuse.IMAGE, refined=True))

    def thresholds(self, settings: Settings) -> Thresholds:
        return settings.calibration.modm if settings.calibration else NEVER

    def alike(self, settings: Settings) -> float:
        """By their words: there is no picture yet."""
        return settings.calibration.modm_text.alike if settings.calibration else math.inf

    def plan(self, request: GenerateRequest, evidence: Evidence, settings: Settings) -> Plan:
        best, miss = evidence.best, Plan(request.variant or settings.large, Noise())
        # It is the refiner's work that was calibrated; a caller who insists on another one gets a miss.
        if best is None or request.variant not in (None, settings.refiner):
            return miss
        row = self.thresholds(settings).row(best.similarity)
        if row is None:
            return miss
        if row.skip == 0:
            return Plan(settings.refiner, Noise(near=best))
        source, skip = self.source(evidence), whole_steps(row.skip, settings.refinement(request, settings.refiner))
        return miss if source is None or skip == 0 else Plan(settings.refiner, CachedImage(source, skip))

    def keep(self, request: GenerateRequest, plan: Plan, settings: Settings) -> Keep | None:
        too_small = not settings.keep_small and plan.variant != settings.large
        if too_small or settings.takes_over(request, plan):
            return None
        return Keep(finished=settings.shares_latents(plan.variant))

    def source(self, evidence: Evidence) -> Match | None:
        """The entry to refine, should the best match be similar enough."""
        return evidence.best
