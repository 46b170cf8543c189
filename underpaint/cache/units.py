"""What a cache's capacity counts, how warm it is, and what is known of it from before."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple


class Heat(NamedTuple):
    """``mantissa`` · 2^``exponent``: uses, each weighted by 2^epoch so that older ones count less, without overflow.

    In this normal form (mantissa in [0.5, 1)) comparing two heats is comparing two tuples.
    """

    exponent: float
    mantissa: float

    def plus(self, weight: int, epoch: int) -> Heat:
        """The heat after a use that counts ``weight`` in ``epoch``."""
        before = math.ldexp(self.mantissa, int(self.exponent) - epoch) if self.mantissa else 0.0
        mantissa, exponent = math.frexp(before + weight)
        return Heat(exponent + epoch, mantissa)


COLD = Heat(-math.inf, 0.0)


@dataclass(slots=True, eq=False)
class Unit:
    """What capacity counts. ``step``: of the state (None: the whole entry); ``weight``: what one use of it counts.

    ``used``: the event at which it was last used, or inserted.
    """

    entry_id: int
    step: int | None
    weight: int
    used: int = 0
    heat: Heat = COLD


@dataclass(frozen=True)
class Past:
    """What is known from earlier runs of one file of an entry: the image (step None) or the latents of a step."""

    step: int | None
    uses: int
    used: int
