"""HADIS: what the router calls hard goes to the large variant at once; the rest is judged as by DiffServe.

"A Hybrid Architecture for Query-Aware Diffusion Model Serving", EuroSys 2027, arXiv:2509.00642. Its thresholds are
shares of requests; so are ours, by default (see ``Settings``).
"""

from __future__ import annotations

from underpaint.evidence import Evidence
from underpaint.policies.diffserve import DiffServe
from underpaint.policies.plan import Settings
from underpaint.requests import GenerateRequest


class Hadis(DiffServe):
    name = "hadis"

    def asks_router(self, request: GenerateRequest, evidence: Evidence, settings: Settings) -> bool:
        return request.variant is None

    def hard(self, evidence: Evidence, settings: Settings) -> bool:
        return evidence.router_score is not None and evidence.router_score >= settings.router_cutoff
