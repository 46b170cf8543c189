"""The vocabulary of allocators: what they are told, and what they decide."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import ClassVar

from underpaint.control.profile import Profile
from underpaint.errors import InvalidArgument


class Form(StrEnum):
    """As its authors published it, or with what is wrong in it put right."""

    PUBLISHED = "published"
    CORRECTED = "corrected"


# What is known --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Queue:
    """Before one variant: requests that wait for it, and how many come a second."""

    waiting: float = 0.0
    arrivals_per_s: float = 0.0

    @property
    def wait_s(self) -> float:
        """By Little's law; 0 where nothing comes."""
        return self.waiting / self.arrivals_per_s if self.arrivals_per_s > 0 else 0.0


@dataclass(frozen=True)
class Reuse:
    """What the cache gives: share of requests that hit; among hits, the probability of each share of steps skipped."""

    hit_rate: float = 0.0
    skips: Mapping[float, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 0 <= self.hit_rate <= 1:
            raise InvalidArgument.of("hit_rate", self.hit_rate, "a share, 0 to 1")
        if self.skips and not math.isclose(sum(self.skips.values()), 1, abs_tol=1e-6):
            raise InvalidArgument.of("skips", dict(self.skips), "probabilities that sum up to 1")

    @property
    def left(self) -> float:
        """Mean share of a hit's steps that are still to run: Σ P(k)·(1 - k/T)."""
        return sum(share * (1 - skip) for skip, share in self.skips.items()) if self.skips else 1.0


@dataclass(frozen=True)
class Load:
    """What is asked for: requests that arrive a second (not those outstanding), and the queues before the variants."""

    arrivals_per_s: float
    queues: Mapping[str, Queue] = field(default_factory=dict)
    reuse: Reuse = field(default_factory=Reuse)

    def __post_init__(self) -> None:
        if not (math.isfinite(self.arrivals_per_s) and self.arrivals_per_s >= 0):
            raise InvalidArgument.of("arrivals_per_s", self.arrivals_per_s, "requests a second, 0 or more")

    def wait_s(self, variant: str) -> float:
        return self.queues.get(variant, Queue()).wait_s


@dataclass(frozen=True)
class Fleet:
    """What there is to give away, and what has been promised. ``period_s``: until the next allocation."""

    devices: int
    slo_s: float
    period_s: float = 5.0

    def __post_init__(self) -> None:
        if self.devices < 1:
            raise InvalidArgument.of("devices", self.devices, "1 or more")
        for name in ("slo_s", "period_s"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise InvalidArgument.of(name, value, "seconds, above 0")


# What is decided ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Allocation:
    """Who gets the devices, and which requests each variant serves.

    Attributes:
        policy: which policy splits the requests between ``small`` and ``large``, see ``underpaint/policies``.
        instances: devices by variant. Whole numbers where a variant owns its devices, fractions where they are shared.
        batches: the most images that a variant should paint together.
        direct: θ, share of the requests that go straight to the large variant.
        deferred: τ, share of the others' images that the discriminator is to reject.
        confidence: t, where it is the score itself that was decided; else the score follows from ``deferred``.
        shares: of the requests by variant, where nobody looks at them.
        loss: as the allocator expects it.
        feasible: whether the promise can be kept; ``reason`` says what was weighed.
        memory: what the allocator wants to be told the next time, beside the allocation itself.
    """

    policy: str
    small: str
    large: str
    instances: Mapping[str, float]
    batches: Mapping[str, int]
    direct: float = 0.0
    deferred: float = 0.0
    confidence: float | None = None
    shares: Mapping[str, float] = field(default_factory=dict)
    loss: float | None = None
    feasible: bool = True
    reason: str = ""
    memory: Mapping[str, float] = field(default_factory=dict)

    @property
    def pair(self) -> tuple[str, str]:
        return self.small, self.large

    @property
    def large_share(self) -> float:
        return self.direct + (1 - self.direct) * self.deferred


class Allocator:
    """Pure: a load, a profile, a fleet and the present allocation in, an allocation out.

    A subclass says its ``name``. It keeps nothing between calls; what it must remember travels in the allocation.
    """

    name: ClassVar[str]

    def allocate(self, load: Load, profile: Profile, fleet: Fleet, present: Allocation | None = None) -> Allocation:
        raise NotImplementedError
