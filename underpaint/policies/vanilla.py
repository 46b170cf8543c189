"""The baseline that every saving is measured against: the large variant, from noise, every step."""

from __future__ import annotations

from underpaint.evidence import Evidence
from underpaint.policies.plan import Accept, Noise, Plan, Settings, Verdict
from underpaint.requests import GenerateRequest


class Vanilla:
    name = "vanilla"

    def plan(self, request: GenerateRequest, evidence: Evidence, settings: Settings) -> Plan:
        return Plan(request.variant or settings.large, Noise())

    def after(self, plan: Plan, score: float | None, time_left_s: float | None, settings: Settings) -> Verdict:
        return Accept()
