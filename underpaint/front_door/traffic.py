"""Who gets which version of the family, while a new one is on trial beside it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from underpaint.deployment import Deployment
from underpaint.policies import Settings
from underpaint.releases import Rollout, suffix_of
from underpaint.requests import GenerateRequest


@dataclass(frozen=True)
class Release:
    """One version of the family: what is deployed of it, and the settings that hold for it.

    ``suffix``: behind a variant's name in those of its models; empty for the family's own version.
    """

    deployment: Deployment
    settings: Settings
    suffix: str = ""

    @property
    def version(self) -> int:
        return self.deployment.version

    @property
    def painters(self) -> list[str]:
        """What its variants' models are called."""
        return [f"{variant}{self.suffix}" for variant in self.deployment.variants]


@dataclass(frozen=True)
class Traffic:
    """The family's own version and, while there is a rollout, the one on trial."""

    stable: Release
    candidate: Release | None = None
    rollout: Rollout | None = None

    @classmethod
    def of(cls, stable: Release, candidate: Release | None, rollout: Rollout | None) -> Traffic:
        """What a rollout makes of two releases. One to the version that is the family's own by now is over."""
        if rollout is None or candidate is None or candidate.version == stable.version:
            return cls(stable)
        return cls(stable, replace(candidate, suffix=suffix_of(candidate.version)), rollout)

    @property
    def releases(self) -> tuple[Release, ...]:
        return (self.stable, self.candidate) if self.candidate else (self.stable,)

    def release_of(self, request: GenerateRequest) -> Release:
        """The one that serves a request, whose seed has been drawn."""
        if self.candidate is None or self.rollout is None or not self.rollout.takes(request):
            return self.stable
        return self.candidate
