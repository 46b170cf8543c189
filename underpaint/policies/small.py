"""A control: the small variant for everything. What a cache gains must be more than this."""

from __future__ import annotations

from underpaint.evidence import Evidence
from underpaint.policies.plan import Noise, Plan, Policy, Settings
from underpaint.requests import GenerateRequest


class Small(Policy):
    name = "small"

    def plan(self, request: GenerateRequest, evidence: Evidence, settings: Settings) -> Plan:
        return Plan(request.variant or settings.small, Noise())
