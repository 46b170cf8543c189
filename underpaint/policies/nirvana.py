"""Nirvana: the first K steps are skipped, by going on from latents that a similar prompt left behind.

"Approximate Caching for Efficiently Serving Diffusion Models", NSDI 2024, arXiv 2312.04429: text-to-text retrieval;
latents are kept before K of 50 steps for five values of K; the more similar the prompts, the larger a K is allowed.
Two later ones are kept here as well: who asks for the very same may skip nearly everything.
"""

from __future__ import annotations

from collections.abc import Sequence

from underpaint.evidence import Evidence, Match, Measured, Needs, Query, Reuse, Space
from underpaint.policies.plan import CachedLatents, Keep, Noise, Plan, Policy, Settings
from underpaint.policies.thresholds import NEVER, Thresholds, whole_steps
from underpaint.requests import GenerateRequest

# The cache selector's table. For simulations and tests; a server goes by its own calibration.
PUBLISHED = Thresholds.of((0.95, 0.5), (0.90, 0.4), (0.85, 0.3), (0.75, 0.2), (0.65, 0.1))
PUBLISHED_SHARES = (0.1, 0.2, 0.3, 0.4, 0.5)  # K of 5, 10, 15, 20, 25 in 50
KEPT_SHARES = (*PUBLISHED_SHARES, 0.7, 0.9)


class Nirvana(Policy):
    name = "nirvana"
    needs = Needs(matches=Query(Space.TEXT, Reuse.LATENTS, predicted=True))

    def thresholds(self, settings: Settings) -> Thresholds:
        return settings.calibration.nirvana if settings.calibration else NEVER

    def alike(self, settings: Settings) -> float:
        return self.thresholds(settings).alike

    def plan(self, request: GenerateRequest, evidence: Evidence, settings: Settings) -> Plan:
        miss = Plan(request.variant or settings.large, Noise())
        if not evidence.matches or miss.variant != settings.large:  # which alone was calibrated
            return miss
        # Of entries that allow the same, the most similar one: max returns the first of equals.
        source = max(evidence.matches, key=lambda match: self._step(match, request, settings))
        step = self._step(source, request, settings)
        return Plan(settings.large, CachedLatents(source, step)) if _pays(step, settings, evidence.measured) else miss

    def keep(self, request: GenerateRequest, plan: Plan, settings: Settings) -> Keep | None:
        """Of what was resumed, what follows (the paper keeps none): who asks for the same again starts there."""
        if settings.takes_over(request, plan):
            return None
        kept = kept_steps(settings.run_length(request, plan))
        return Keep(tuple(step for step in kept if step > plan.skipped))

    def _step(self, match: Match, request: GenerateRequest, settings: Settings) -> int:
        """The largest step that the similarity allows and that has not been evicted; 0 where there is none."""
        allowed = self.thresholds(settings).steps(match.similarity, settings.steps(request, settings.large))
        return max((step for step in match.steps if step <= allowed), default=0)


def kept_steps(num_inference_steps: int, shares: Sequence[float] = KEPT_SHARES) -> tuple[int, ...]:
    """The K's of a run, rising: 2, 5, 7, 10, 12, 17 and 22 of 25 steps. Short runs have fewer."""
    steps = {whole_steps(share, num_inference_steps) for share in shares}
    return tuple(sorted(steps - {0}))


def _pays(step: int, settings: Settings, measured: Measured) -> bool:
    """Whether the steps saved take longer than the fetch. What has not been measured yet is tried."""
    step_ms = measured.step_ms.get(settings.large)
    if step_ms is None or measured.fetch_ms is None:
        return step > 0
    return step * step_ms > measured.fetch_ms
