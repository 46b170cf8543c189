"""DiffServe: the small variant paints, and what the discriminator is not confident of the large one paints again.

"DiffServe: Efficiently Serving Text-to-Image Diffusion Models with Query-Aware Model Scaling", MLSys 2025,
arXiv:2411.15381. There, an image that is deferred too late is dropped; here its caller gets the small one.
"""

from __future__ import annotations

from underpaint.evidence import Evidence
from underpaint.policies.plan import Escalation, Noise, Plan, Policy, Settings
from underpaint.requests import GenerateRequest

_MARGIN = 1.2  # others come meanwhile


class DiffServe(Policy):
    name = "diffserve"
    judges = True

    def plan(self, request: GenerateRequest, evidence: Evidence, settings: Settings) -> Plan:
        if request.variant is not None:  # that is what its caller gets
            return Plan(request.variant, Noise())
        large = Plan(settings.large, Noise())
        if settings.large == settings.small or self.hard(evidence, settings):
            return large
        then = Escalation(large, settings.confidence_cutoff, predicted_s(request, evidence, settings))
        return Plan(settings.small, Noise(), then)

    def hard(self, evidence: Evidence, settings: Settings) -> bool:
        """Whether the small variant need not even try."""
        return False


def predicted_s(request: GenerateRequest, evidence: Evidence, settings: Settings) -> float:
    """What the large variant's painting is worth of the machine's time, as seen of late, in seconds."""
    steps = settings.steps(request, settings.large)
    return _MARGIN * evidence.measured.work_ms.get(settings.large, 0.0) * steps / 1e3
