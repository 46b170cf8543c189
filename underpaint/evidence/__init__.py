"""What is known of a request before any denoising, and what a policy can ask to know.

Types alone: the front door gathers what they hold (``front_door/gathering.py``), cheapest first and only on demand.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

import numpy as np


class Space(StrEnum):
    """Which embeddings of the cache the prompt's embedding is compared with."""

    IMAGE = "image"
    TEXT = "text"


class Reuse(StrEnum):
    """What of an entry is to be reused, and so what must fit: an image fits more requests than latents do."""

    IMAGE = "image"
    LATENTS = "latents"


@dataclass(frozen=True)
class Query:
    """A lookup in the cache.

    ``predicted``: only where the match predictor does not expect it to be in vain. ``refined``: an image is painted
    over, so that its finished latents do as well.
    """

    space: Space
    reuse: Reuse
    predicted: bool = False
    refined: bool = False


@dataclass(frozen=True)
class Needs:
    """What a policy wants to know beyond what costs nothing.

    ``stranger``: an entry that has nothing to do with the request, for a control; it is looked up after ``matches``.
    """

    matches: Query | None = None
    stranger: bool = False


@dataclass(frozen=True)
class Match:
    """An entry of the cache that may be reused.

    Attributes:
        similarity: cosine of the two embeddings.
        prompt, variant, seed: how the entry was painted.
        generation: 0 where it was painted from noise, else one more than what it was painted from.
        steps: before which of its steps latents are still there, rising.
    """

    entry_id: int
    similarity: float
    prompt: str
    variant: str
    seed: int
    generation: int = 0
    steps: tuple[int, ...] = ()


class Miss(StrEnum):
    """Why a request that could have been helped by the cache was not."""

    OFF = "off"  # the caller does not want to be
    UNCALIBRATED = "uncalibrated"  # nobody has measured how similar is similar enough
    UNFIT = "unfit"  # the variant that would reuse an entry cannot do what the request asks for
    PREDICTED = "predicted"  # the match predictor expected none
    SLOW = "slow"  # no answer in time
    UNAVAILABLE = "unavailable"  # an error instead of an answer
    EMPTY = "empty"  # nothing is stored for requests like this one
    DECLINED = "declined"  # what was found is not similar enough, or not worth its fetch
    EASY = "easy"  # nothing that was found is similar enough, and the prompt easy enough for the small variant
    GONE = "gone"  # evicted after it was found
    BROKEN = "broken"  # found and fetched, but it cannot be painted from


@dataclass(frozen=True)
class Absence:
    """Why there are no matches, and in ``detail`` what the caller should hear of it, if anything."""

    why: Miss
    detail: str = ""


@dataclass(frozen=True)
class Measured:
    """What things have cost of late, in milliseconds; what has not been seen yet is missing.

    ``step_ms``: a denoising step, by variant; ``fetch_ms``: the slower ones (95th percentile) of latents' fetches;
    ``work_ms``: what a step and its share of all around it would take with the machine to itself, by variant.
    """

    step_ms: Mapping[str, float] = field(default_factory=dict)
    fetch_ms: float | None = None
    work_ms: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Evidence:
    """All that a policy may base its plan on.

    Attributes:
        in_flight: requests that the front door is serving, this one included.
        time_left_s: None for a request without a deadline.
        measured: costs that the selector of a policy weighs.
        embedding: float32 [D], the prompt's, of unit length; None where nobody needed it.
        matches: entries of the cache, most similar first.
        absence: why there are none, where a policy wanted some.
        stranger: an entry chosen without regard to the prompt.
        router_score: the chance, 0 to 1, that the small variant fails at the prompt; None where nobody asked, or the
            router did not answer in time.
        add_ons: the request's LoRAs and ControlNets by name, strength and file, for the scope of what is reused.
    """

    in_flight: int
    time_left_s: float | None = None
    measured: Measured = field(default_factory=Measured)
    embedding: np.ndarray | None = field(default=None, compare=False, repr=False)
    matches: tuple[Match, ...] = ()
    absence: Absence | None = None
    stranger: Match | None = None
    router_score: float | None = None
    add_ons: tuple[str, ...] = ()

    @property
    def best(self) -> Match | None:
        """The most similar entry."""
        return self.matches[0] if self.matches else None

    def without_matches(self, absence: Absence) -> Evidence:
        """The same, for a plan that makes do without the cache, and with the large variant."""
        return replace(self, matches=(), stranger=None, absence=absence, router_score=None)
