"""A control for MoDM: a share of the requests goes to the small variant, no matter which, all from noise.

At a share that costs as much as MoDM does, it tells what choosing by similarity is worth.
"""

from __future__ import annotations

import hashlib

from underpaint.evidence import Evidence
from underpaint.policies.plan import Noise, Plan, Policy, Settings
from underpaint.requests import GenerateRequest


class RandomMix(Policy):
    name = "random-mix"

    def plan(self, request: GenerateRequest, evidence: Evidence, settings: Settings) -> Plan:
        chosen = settings.small if lot(request) < settings.small_share else settings.large
        return Plan(request.variant or chosen, Noise())


def lot(request: GenerateRequest) -> float:
    """A number in [0, 1) that looks random and is always the same for the same prompt and seed."""
    digest = hashlib.sha256(f"{request.seed} {request.prompt}".encode()).digest()
    return int.from_bytes(digest[:6]) / 2**48
