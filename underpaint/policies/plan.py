"""The vocabulary of policies: what is decided before painting, what is kept, and what follows the outcome."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from underpaint.deployment import Deployment
from underpaint.errors import InvalidArgument
from underpaint.evidence import Evidence, Match, Needs
from underpaint.policies.calibration import Calibration, problem
from underpaint.policies.thresholds import NEVER, Thresholds
from underpaint.requests import GenerateRequest

# Starts ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Noise:
    """Start from nothing: run every step."""

    name: ClassVar[str] = "noise"


@dataclass(frozen=True)
class CachedImage:
    """Start from the image of ``entry``, noised up to the level that step ``skip`` starts from (MoDM)."""

    entry: Match
    skip: int
    name: ClassVar[str] = "cached_image"


@dataclass(frozen=True)
class CachedLatents:
    """Start from the latents of ``entry`` as they were before its own step ``step`` (Nirvana)."""

    entry: Match
    step: int
    name: ClassVar[str] = "cached_latents"


@dataclass(frozen=True)
class Finished:
    """The image of ``entry`` is the answer."""

    entry: Match
    name: ClassVar[str] = "finished"


Reused = CachedImage | CachedLatents | Finished
Start = Noise | Reused


@dataclass(frozen=True)
class Plan:
    """Which variant paints, and what it starts from."""

    variant: str
    start: Start


@dataclass(frozen=True)
class Keep:
    """What of a painting the cache should keep: its image, and its latents as they were before each of ``steps``."""

    steps: tuple[int, ...] = ()


# Verdicts -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Accept:
    """The image is what the caller gets."""


@dataclass(frozen=True)
class Escalate:
    """The image is not good enough; paint again by this plan."""

    plan: Plan


Verdict = Accept | Escalate


# Settings and policies ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Settings:
    """What is decided outside the request path.

    Attributes:
        small, large: the variants that play these roles.
        policy: of a request that does not name one.
        default_steps: denoising steps of a request that does not say how many, by variant.
        calibration: how similar is similar enough; without it nothing is ever read from the cache.
        uncalibrated: why there is none, for people.
        max_generation: where reuse ends. An image painted from noise is of generation 0, one made from it of 1, and
            so on; 1 forbids to make anything from what was itself made from something.
        keep_small: whether MoDM keeps the small variant's images too (its *cache-all*) or not (*cache-large*).
        small_share: of the requests under ``random-mix``, how many the small variant paints.
        predict: whether Nirvana asks its match predictor before it looks anything up.
    """

    small: str
    large: str
    policy: str = "vanilla"
    default_steps: Mapping[str, int] = field(default_factory=dict)
    calibration: Calibration | None = None
    uncalibrated: str = ""
    max_generation: int = 4
    keep_small: bool = True
    small_share: float = 0.5
    predict: bool = True

    def __post_init__(self) -> None:
        if self.max_generation < 1:
            raise InvalidArgument.of("max_generation", self.max_generation, "1 or more")
        if not 0 <= self.small_share <= 1:
            raise InvalidArgument.of("small_share", self.small_share, "a share, 0 to 1")

    @classmethod
    def of(cls, deployment: Deployment, calibration: Calibration | None = None, **decided: Any) -> Settings:
        """The settings of a deployment; a calibration that does not speak for it is left out."""
        uncalibrated = problem(calibration, deployment)
        by_default = {"small": deployment.small, "large": deployment.large, "policy": deployment.default_policy}
        return cls(
            default_steps={name: variant.num_inference_steps for name, variant in deployment.variants.items()},
            calibration=None if uncalibrated else calibration,
            uncalibrated=uncalibrated,
            **{**by_default, **decided},
        )

    def steps(self, request: GenerateRequest, variant: str) -> int:
        """How many steps ``variant`` has in all for this request."""
        return request.num_inference_steps or self.default_steps[variant]


class Policy:
    """One system's way to spend less. Pure: no I/O, no state, so that server, tests and simulator share the objects.

    A subclass says at least its ``name`` and how it plans.
    """

    name: ClassVar[str]
    needs: ClassVar[Needs] = Needs()

    def thresholds(self, settings: Settings) -> Thresholds:
        """How similar a match must be to be of use."""
        return NEVER

    def plan(self, request: GenerateRequest, evidence: Evidence, settings: Settings) -> Plan:
        """Decide before anything is painted."""
        raise NotImplementedError

    def keep(self, request: GenerateRequest, plan: Plan, settings: Settings) -> Keep | None:
        """What the cache should keep of what ``plan`` paints, if anything."""
        return None

    def after(self, plan: Plan, score: float | None, time_left_s: float | None, settings: Settings) -> Verdict:
        """Decide what follows once ``plan`` has been run.

        ``score``: what the discriminator gives the image, where there is one; ``time_left_s``: to the deadline.
        """
        return Accept()
