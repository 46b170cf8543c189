"""A request on its way through a simulation, and the rules by which it is treated."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from underpaint.control.allocation import Form
from underpaint.policies import Plan
from underpaint.requests import GenerateRequest


@dataclass(frozen=True)
class Rules:
    """How a server treats requests.

    Attributes:
        own_queues: each device has a queue of its own, and requests are sent to one at random; else the devices of a
            variant share a queue, and the request that is due first is painted first.
        drop_at: a request that would be done later than so many times the promise is not begun.
        live: thresholds follow the scores that are seen; else they are quantiles of a fixed corpus, or fixed.
        rescues: what would be late is answered with the small image that it has, or painted by the small variant.
        outstanding: demand is taken for the number of requests that are not answered yet, as the artifacts of DiffServe
            and HADIS do, which is more than arrive a second where an answer takes longer than one.
    """

    own_queues: bool
    drop_at: float
    live: bool
    rescues: bool
    outstanding: bool = False


RULES = {
    Form.PUBLISHED: Rules(own_queues=True, drop_at=1.5, live=False, rescues=False, outstanding=True),
    Form.CORRECTED: Rules(own_queues=False, drop_at=1.0, live=True, rescues=True),
}
MODM_PUBLISHED = Rules(own_queues=False, drop_at=math.inf, live=False, rescues=False)  # two queues, nothing dropped


@dataclass(eq=False)
class Job:
    """Times are seconds since the start; ``prompt`` is its number in the population.

    Attributes:
        pair: the small and the large variant when it arrived.
        plan: what is painted now, or was last; ``painted``: by which variants it has been painted.
        done_s: when it was answered; None while it is not, and for ever if it was dropped.
        fallback: whether its image is another one than the policy wanted.
    """

    number: int
    prompt: int
    arrived_s: float
    due_s: float
    request: GenerateRequest
    pair: tuple[str, str] = ("", "")
    plan: Plan | None = None
    painted: list[str] = field(default_factory=list)
    done_s: float | None = None
    dropped: bool = False
    fallback: bool = False

    @property
    def variant(self) -> str:
        """Which has painted it last, and so its image if it has been answered."""
        return self.painted[-1] if self.painted else ""

    @property
    def latency_s(self) -> float | None:
        """From its scheduled arrival."""
        return None if self.done_s is None else self.done_s - self.arrived_s

    @property
    def in_time(self) -> bool:
        return self.done_s is not None and self.done_s <= self.due_s + 1e-9

    @property
    def answered(self) -> bool:
        return self.done_s is not None
