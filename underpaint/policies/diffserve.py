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
        if settings.large == settings.small or self.hard(evidence, settings):
            return Plan(settings.large, Noise())
        then = painted_again(request, evidence, settings, below=settings.confidence_cutoff)
        return Plan(settings.small, Noise(), then)

    def hard(self, evidence: Evidence, settings: Settings) -> bool:
        """Whether the small variant need not even try."""
        return False


def painted_again(request: GenerateRequest, evidence: Evidence, settings: Settings, below: float) -> Escalation:
    """By the large variant from noise. How long that takes of the machine's time is told by what was seen of late."""
    steps = settings.steps(request, settings.large)
    predicted_s = _MARGIN * evidence.measured.work_ms.get(settings.large, 0.0) * steps / 1e3
    return Escalation(Plan(settings.large, Noise()), below, predicted_s)
