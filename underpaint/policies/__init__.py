"""Policies by name; each published system is one file."""

from underpaint.errors import InvalidArgument
from underpaint.policies.plan import Accept, Escalate, Noise, Plan, Policy, Settings, Verdict
from underpaint.policies.vanilla import Vanilla

__all__ = ["POLICIES", "Accept", "Escalate", "Noise", "Plan", "Policy", "Settings", "Verdict", "by_name"]

POLICIES: dict[str, Policy] = {policy.name: policy for policy in (Vanilla(),)}


def by_name(name: str) -> Policy:
    """The policy of that name, or InvalidArgument."""
    if name not in POLICIES:
        raise InvalidArgument.of("policy", name, ", ".join(POLICIES))
    return POLICIES[name]
