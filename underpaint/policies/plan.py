"""The vocabulary of policies: what is decided before painting, what is kept, and what follows the outcome."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, ClassVar

from underpaint.deployment import Deployment, Scorer
from underpaint.errors import InvalidArgument
from underpaint.evidence import Evidence, Match, Needs
from underpaint.policies.calibration import Calibration, problem
from underpaint.policies.thresholds import NEVER, Thresholds
from underpaint.requests import GenerateRequest

_EVEN_ODDS = 0.5
TAKEN_OVER = 0.5  # of a run; what skips more hardly differs from its source: who finds the one finds the other

# Starts ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Noise:
    """Start from nothing: run every step.

    ``easy``: nothing that is stored is of use, but the router thinks the small variant equal to the prompt (MoDM).
    """

    easy: bool = False
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
    """Which variant paints, what it starts from, and what may follow, should the image not be good enough."""

    variant: str
    start: Start
    then: Escalation | None = None

    @property
    def skipped(self) -> int:
        """Steps that need not be run, where any are."""
        start = self.start
        return start.skip if isinstance(start, CachedImage) else start.step if isinstance(start, CachedLatents) else 0


@dataclass(frozen=True)
class Escalation:
    """A second painting, where the discriminator gives the first less than ``below``.

    ``predicted_s``: how long it takes with the machine to itself; 0 where nobody knows yet.
    """

    plan: Plan
    below: float
    predicted_s: float = 0.0


@dataclass(frozen=True)
class Keep:
    """What of a painting the cache should keep: its image, and its latents as they were before each of ``steps``.

    ``finished``: its finished latents as well, which a refinement can start from without encoding the image again.
    """

    steps: tuple[int, ...] = ()
    finished: bool = False


# Verdicts -------------------------------------------------------------------------------------------------------


class Fallback(StrEnum):
    """Why a caller gets an image that nobody vouches for."""

    UNJUDGED = "unjudged"  # the discriminator did not answer in time
    LATE = "late"  # painting again would take, or has taken, longer than the caller waits
    FAILED = "failed"  # it was to be painted again, but that went wrong


@dataclass(frozen=True)
class Accept:
    """The image is what the caller gets. ``fallback``: why, although it is not known to be good enough."""

    fallback: Fallback | None = None


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
        small, large, refiner: the variants that play these roles; the small one refines, where no refiner is named.
        policy: of a request that does not name one.
        default_steps: denoising steps of a request that does not say how many, by variant.
        refine_steps: of the run that its refinement of a cached image is the end of, where that is another.
        autoencoders: hashes by variant; between equal ones latents can be handed on.
        calibration: how similar is similar enough; without it nothing is ever read from the cache.
        uncalibrated: why there is none, for people.
        max_generation: where reuse ends. An image painted from noise is of generation 0, one made from it of 1, and
            so on; 1 forbids to make anything from what was itself made from something.
        keep_small: whether MoDM keeps the small variant's images too (its *cache-all*) or not (*cache-large*).
        least_confidence: no image is kept that the discriminator, where there is one, gives a lower chance of showing
            what its prompt says: whoever asks for the same would get the same faults. 0 keeps them all.
        small_share: of the requests under ``random-mix``, how many the small variant paints.
        shadow_share: of the hits, how many are painted in full as well once they are answered, to compare.
        predict: whether Nirvana asks its match predictor before it looks anything up.
        confidence_threshold: under a cascade, an image is painted again where the discriminator's score is below.
        router_threshold: HADIS has the large variant paint at once where the router's score is as high.
        slo_ms: the promise that cascades keep to, for requests that bring none of their own: these are done with less
            rather than late, and never refused.
        defer_share, hard_share: where these thresholds are not given, what share of the images, and of the requests,
            they should leave to the large variant, by the scores on captions that nobody learnt from.
        router, discriminator: as far as their scores are known to be about the small variant that is deployed.
        unscored: why they are not, for people.
    """

    small: str
    large: str
    refiner: str = ""
    policy: str = "vanilla"
    default_steps: Mapping[str, int] = field(default_factory=dict)
    refine_steps: Mapping[str, int] = field(default_factory=dict)
    autoencoders: Mapping[str, str] = field(default_factory=dict)
    calibration: Calibration | None = None
    uncalibrated: str = ""
    max_generation: int = 4
    keep_small: bool = True
    least_confidence: float = 0.2
    small_share: float = 0.5
    shadow_share: float = 0.0
    predict: bool = True
    confidence_threshold: float | None = None
    router_threshold: float | None = None
    defer_share: float = 0.3
    hard_share: float = 0.1
    slo_ms: int | None = None
    router: Scorer | None = None
    discriminator: Scorer | None = None
    unscored: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "refiner", self.refiner or self.small)
        if self.max_generation < 1:
            raise InvalidArgument.of("max_generation", self.max_generation, "1 or more")
        for name in ("small_share", "shadow_share", "defer_share", "hard_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise InvalidArgument.of(name, getattr(self, name), "a share, 0 to 1")
        if self.slo_ms is not None and self.slo_ms < 1:
            raise InvalidArgument.of("slo_ms", self.slo_ms, "1 or more")
        for name in ("confidence_threshold", "router_threshold", "least_confidence"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise InvalidArgument.of(name, value, "a probability, 0 to 1")

    @classmethod
    def of(cls, deployment: Deployment, calibration: Calibration | None = None, **decided: Any) -> Settings:
        """The settings of a deployment; a calibration that does not speak for it is left out."""
        uncalibrated = problem(calibration, deployment)
        scorers, unscored = _scorers(deployment, decided.get("small", deployment.small))
        roles = {"small": deployment.small, "large": deployment.large, "refiner": deployment.refiner}
        by_default = {**roles, "policy": deployment.default_policy}
        return cls(
            default_steps={name: variant.num_inference_steps for name, variant in deployment.variants.items()},
            refine_steps={name: variant.refinement_steps for name, variant in deployment.variants.items()},
            autoencoders={name: variant.autoencoder for name, variant in deployment.variants.items()},
            calibration=None if uncalibrated else calibration,
            uncalibrated=uncalibrated,
            unscored=unscored,
            router=scorers.get("router"),
            discriminator=scorers.get("discriminator"),
            **{**by_default, **decided},
        )

    @property
    def confidence_cutoff(self) -> float:
        """The least score of an image that is accepted."""
        return _cutoff(self.confidence_threshold, self.discriminator, self.defer_share)

    @property
    def router_cutoff(self) -> float:
        """The least score of a prompt that is hard."""
        return _cutoff(self.router_threshold, self.router, 1 - self.hard_share)

    def steps(self, request: GenerateRequest, variant: str) -> int:
        """How many steps ``variant`` has in all for this request."""
        return request.num_inference_steps or self.default_steps[variant]

    def refinement(self, request: GenerateRequest, variant: str) -> int:
        """How many steps the run has that ``variant`` does the end of, when it refines a cached image."""
        return request.num_inference_steps or self.refine_steps.get(variant) or self.default_steps[variant]

    def shares_latents(self, variant: str) -> bool:
        """Whether the refiner can start from finished latents of ``variant``."""
        own = self.autoencoders.get(variant, "")
        return own != "" and own == self.autoencoders.get(self.refiner)

    def run_length(self, request: GenerateRequest, plan: Plan) -> int:
        """How many steps the run has, of which a plan may skip some."""
        refines = isinstance(plan.start, CachedImage)
        return self.refinement(request, plan.variant) if refines else self.steps(request, plan.variant)

    def to_run(self, request: GenerateRequest, plan: Plan) -> int:
        """How many steps a plan leaves to be run."""
        return max(0, self.run_length(request, plan) - plan.skipped)

    def takes_over(self, request: GenerateRequest, plan: Plan) -> bool:
        """Whether what a plan paints is hardly worth keeping beside the entry that it was made from."""
        return plan.skipped > TAKEN_OVER * self.run_length(request, plan)


def _cutoff(threshold: float | None, scorer: Scorer | None, share: float) -> float:
    """Below which a share of scores lies. Where none have been seen, even odds: they are probabilities, after all."""
    if threshold is not None:
        return threshold
    if share in (0, 1):
        return math.inf if share else 0.0  # beyond whatever has been seen
    return scorer.cutoff(share) if scorer else _EVEN_ODDS


def _scorers(deployment: Deployment, small: str) -> tuple[dict[str, Scorer | None], str]:
    """Router and discriminator, if they know the small variant; why not, where they do not."""
    scorers = {"router": deployment.router, "discriminator": deployment.discriminator}
    weights = deployment.variant(small).weights
    strange = [
        name for name, scorer in scorers.items() if scorer and not (scorer.quantiles and scorer.small == weights)
    ]
    why = f"{' and '.join(strange)} did not learn from pictures of this {small}, so cutoffs are {_EVEN_ODDS}"
    return {name: scorer for name, scorer in scorers.items() if name not in strange}, why if strange else ""


class Policy:
    """One system's way to spend less. Pure: no I/O, no state, so that server, tests and simulator share the objects.

    A subclass says at least its ``name`` and how it plans.
    """

    name: ClassVar[str]
    needs: ClassVar[Needs] = Needs()
    judges: ClassVar[bool] = False  # whether it is nothing without a discriminator

    def thresholds(self, settings: Settings) -> Thresholds:
        """How similar a match must be to be of use."""
        return NEVER

    def alike(self, settings: Settings) -> float:
        """How similar two prompts must be for the one to wait while the other's picture is painted; infinite: never."""
        return math.inf

    def plan(self, request: GenerateRequest, evidence: Evidence, settings: Settings) -> Plan:
        """Decide before anything is painted."""
        raise NotImplementedError

    def asks_router(self, request: GenerateRequest, evidence: Evidence, settings: Settings) -> bool:
        """Whether the router's score would change the plan; decided when all other evidence is there."""
        return False

    def keep(self, request: GenerateRequest, plan: Plan, settings: Settings) -> Keep | None:
        """What the cache should keep of what ``plan`` paints, if anything."""
        return None

    def after(self, plan: Plan, score: float | None, spare_s: float | None) -> Verdict:
        """Decide what follows once ``plan`` has been run.

        ``score``: what the discriminator gives the image; None where it was not asked or did not answer. ``spare_s``:
        to the deadline or to what was promised, less the time by which all that was let in before holds it up; None
        where nothing was promised.
        """
        if plan.then is None:
            return Accept()
        if score is None:
            return Accept(Fallback.UNJUDGED)
        if score >= plan.then.below:
            return Accept()
        if spare_s is not None and spare_s < plan.then.predicted_s:
            return Accept(Fallback.LATE)
        return Escalate(plan.then.plan)
