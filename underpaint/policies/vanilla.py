"""The baseline that every saving is measured against: the large variant, from noise, every step."""

from __future__ import annotations

from underpaint.evidence import Evidence
from underpaint.policies.plan import Noise, Plan, Policy, Settings
from underpaint.requests import GenerateRequest


class Vanilla(Policy):
    name = "vanilla"

    def plan(self, request: GenerateRequest, evidence: Evidence, settings: Settings) -> Plan:
        return Plan(request.variant or settings.large, Noise())
