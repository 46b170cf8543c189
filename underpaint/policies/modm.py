"""MoDM: a similar finished image is noised up and refined by a smaller variant; what is new, the large one paints.

"MoDM: Efficient Serving for Image Generation via Mixture-of-Diffusion Models", ASPLOS 2026, doi
10.1145/3760250.3762220: text-to-image retrieval, and a number of steps to skip by thresholds on the similarity.

Where its calibration says so, it works together with HADIS's router: of what is new, the small variant paints what the
router does not call hard.
"""

from __future__ import annotations

import math
from typing import ClassVar

from underpaint.evidence import Evidence, Match, Needs, Query, Reuse, Space
from underpaint.policies.plan import CachedImage, Keep, Noise, Plan, Policy, Settings
from underpaint.policies.thresholds import NEVER, Threshold, Thresholds, whole_steps
from underpaint.requests import GenerateRequest

# Figure 5b: CLIP ViT-L/14, 30, 25, 15, 10 and 5 of 50 steps. For simulations; a server goes by its own calibration.
PUBLISHED = Thresholds.of((0.30, 0.6), (0.29, 0.5), (0.28, 0.3), (0.27, 0.2), (0.25, 0.1))


class Modm(Policy):
    name = "modm"
    table: ClassVar[str] = "modm"  # of the calibration
    needs = Needs(matches=Query(Space.IMAGE, Reuse.IMAGE, refined=True))

    def thresholds(self, settings: Settings) -> Thresholds:
        return settings.calibration.table(self.table) if settings.calibration else NEVER

    def alike(self, settings: Settings) -> float:
        """By their words: there is no picture yet."""
        return settings.calibration.modm_text.alike if settings.calibration else math.inf

    def plan(self, request: GenerateRequest, evidence: Evidence, settings: Settings) -> Plan:
        large = Plan(request.variant or settings.large, Noise())
        # It is the refiner's work that was calibrated; a caller who insists on another one gets a miss.
        if request.variant not in (None, settings.refiner):
            return large
        row = self._row(evidence, settings)
        if row is None:
            return self._easy(request, evidence, settings) or large
        return self._painted_over(row, request, evidence, settings) or large

    def _painted_over(
        self, row: Threshold, request: GenerateRequest, evidence: Evidence, settings: Settings
    ) -> Plan | None:
        """What was found, refined; None where there is no source after all, or no step to be skipped."""
        source, skip = self.source(evidence), whole_steps(row.skip, settings.refinement(request, settings.refiner))
        return Plan(settings.refiner, CachedImage(source, skip)) if source and skip else None

    def _easy(self, request: GenerateRequest, evidence: Evidence, settings: Settings) -> Plan | None:
        """From noise, by the small variant; None where the prompt is beyond it, or nobody knows."""
        hard, score = self.hard(request, settings), evidence.router_score
        if hard is None or score is None or score >= hard:
            return None
        return Plan(settings.refiner, Noise(easy=True))

    def asks_router(self, request: GenerateRequest, evidence: Evidence, settings: Settings) -> bool:
        return self.hard(request, settings) is not None and self._row(evidence, settings) is None

    def hard(self, request: GenerateRequest, settings: Settings) -> float | None:
        """The router's score from which a prompt is beyond the small variant; None where it is to paint none at all.

        Not what the seed alone shall decide, nor what add-ons, made for another variant, change.
        """
        if request.variant is not None or request.reproducible or request.loras or request.controlnets:
            return None
        return settings.calibration.hard.get(self.table) if settings.calibration else None

    def _row(self, evidence: Evidence, settings: Settings) -> Threshold | None:
        """What the best match is similar enough for."""
        return self.thresholds(settings).row(evidence.best.similarity) if evidence.best else None

    def keep(self, request: GenerateRequest, plan: Plan, settings: Settings) -> Keep | None:
        too_small = not settings.keep_small and plan.variant != settings.large
        if too_small or settings.takes_over(request, plan):
            return None
        return Keep(finished=settings.shares_latents(plan.variant))

    def source(self, evidence: Evidence) -> Match | None:
        """The entry to refine, should the best match be similar enough."""
        return evidence.best
