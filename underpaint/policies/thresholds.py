"""How similar is similar enough to skip how much: a table, measured for one embedder and one pair of variants.

MoDM (figure 5b) and Nirvana (its cache selector) both write theirs down in steps of 50; here it is in shares of a
run, so that it holds for variants of any step count.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

from underpaint.errors import InvalidArgument

_TOLERANCE = 1e-9  # 0.58 of 50 steps are 29, which floating point makes 28.999999999999996


@dataclass(frozen=True)
class Threshold:
    """From ``similarity`` on (inclusive), ``skip`` of a run, up to 1, may be skipped by whoever serves hits."""

    similarity: float
    skip: float

    def __post_init__(self) -> None:
        if not -1 <= self.similarity <= 1:
            raise InvalidArgument.of("similarity", self.similarity, "-1 to 1, a cosine")
        if not 0 < self.skip <= 1:
            raise InvalidArgument.of("skip", self.skip, "a share of all steps, above 0 and up to 1")


@dataclass(frozen=True)
class Thresholds:
    """Rows by falling similarity, and so by falling ``skip``. Without rows nothing is ever similar enough."""

    rows: tuple[Threshold, ...] = ()

    def __post_init__(self) -> None:
        for above, below in itertools.pairwise(self.rows):
            if not (above.similarity > below.similarity and above.skip > below.skip):
                raise InvalidArgument.of("thresholds", (above, below), "rows by falling similarity and falling skip")

    @classmethod
    def of(cls, *rows: tuple[float, float]) -> Thresholds:
        """From pairs of similarity and skip."""
        return cls(tuple(Threshold(similarity, skip) for similarity, skip in rows))

    @property
    def reach(self) -> float:
        """The lowest similarity that is good for anything; infinite where none is."""
        return self.rows[-1].similarity if self.rows else math.inf

    @property
    def alike(self) -> float:
        """From where on the most may be skipped; infinite where that is less than half of a run."""
        return self.rows[0].similarity if self.rows and self.rows[0].skip >= 0.5 else math.inf

    def row(self, similarity: float) -> Threshold | None:
        """The one that holds for a similarity; None below all."""
        return next((row for row in self.rows if similarity >= row.similarity), None)

    def skip(self, similarity: float) -> float:
        """The share of a run that may be skipped; 0 below all thresholds."""
        row = self.row(similarity)
        return row.skip if row else 0.0

    def steps(self, similarity: float, num_inference_steps: int) -> int:
        """The same in steps of a run, rounded down; at least one step of every run is left to be made."""
        return whole_steps(self.skip(similarity), num_inference_steps)


NEVER = Thresholds()


def whole_steps(share: float, num_inference_steps: int) -> int:
    """How many whole steps a share of a run is, never all of them."""
    return min(int(share * num_inference_steps + _TOLERANCE), num_inference_steps - 1)
