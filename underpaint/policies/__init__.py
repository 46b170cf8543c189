"""Policies by name; each published system, and each control, is one file."""

from underpaint.errors import InvalidArgument
from underpaint.policies.calibration import Calibration
from underpaint.policies.diffserve import DiffServe
from underpaint.policies.hadis import Hadis
from underpaint.policies.modm import Modm
from underpaint.policies.modm_text import ModmText
from underpaint.policies.nirvana import Nirvana
from underpaint.policies.plan import (
    Accept,
    CachedImage,
    CachedLatents,
    Escalate,
    Escalation,
    Fallback,
    Finished,
    Keep,
    Noise,
    Plan,
    Policy,
    Settings,
    Verdict,
)
from underpaint.policies.random_mix import RandomMix
from underpaint.policies.random_source import RandomSource
from underpaint.policies.retrieval import Retrieval
from underpaint.policies.small import Small
from underpaint.policies.thresholds import Thresholds
from underpaint.policies.vanilla import Vanilla

__all__ = [
    "POLICIES",
    "Accept",
    "CachedImage",
    "CachedLatents",
    "Calibration",
    "Escalate",
    "Escalation",
    "Fallback",
    "Finished",
    "Keep",
    "Noise",
    "Plan",
    "Policy",
    "Settings",
    "Thresholds",
    "Verdict",
    "by_name",
]

_ALL: tuple[Policy, ...] = (
    Vanilla(),
    Modm(),
    Nirvana(),
    DiffServe(),
    Hadis(),
    ModmText(),
    Retrieval(),
    Small(),
    RandomMix(),
    RandomSource(),
)
POLICIES: dict[str, Policy] = {policy.name: policy for policy in _ALL}


def by_name(name: str) -> Policy:
    """The policy of that name, or InvalidArgument."""
    if name not in POLICIES:
        raise InvalidArgument.of("policy", name, ", ".join(POLICIES))
    return POLICIES[name]
