"""The vocabulary of policies: what is known of a request, what is decided, and what follows its outcome."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

from underpaint.evidence import Evidence
from underpaint.requests import GenerateRequest


@dataclass(frozen=True)
class Noise:
    """Start from nothing: run every step."""

    name: ClassVar[str] = "noise"


Start = Noise


@dataclass(frozen=True)
class Plan:
    """Which variant paints, and what it starts from."""

    variant: str
    start: Start


@dataclass(frozen=True)
class Accept:
    """The image is what the caller gets."""


@dataclass(frozen=True)
class Escalate:
    """The image is not good enough; paint again by this plan."""

    plan: Plan


Verdict = Accept | Escalate


@dataclass(frozen=True)
class Settings:
    """What is decided outside the request path."""

    small: str
    large: str


class Policy(Protocol):
    """One system's way to spend less. Pure: no I/O, no state, so that server, tests and simulator share the objects."""

    name: str

    def plan(self, request: GenerateRequest, evidence: Evidence, settings: Settings) -> Plan:
        """Decide before anything is painted."""

    def after(self, plan: Plan, score: float | None, time_left_s: float | None, settings: Settings) -> Verdict:
        """Decide what follows once ``plan`` has been run.

        ``score``: what the discriminator gives the image, where there is one; ``time_left_s``: to the deadline.
        """
