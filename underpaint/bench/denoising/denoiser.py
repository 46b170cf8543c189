"""``underpaint bench denoiser``: how much of the bare UNet's speed is left of it behind Triton and step batching.

One run alternates the ceiling (bare sessions), 16 requests at a time through ``generate``, and one at a time. Each
round's throughput is divided by the ceiling of the same round, measured before and after it; reported are medians over
the rounds, because machines are noisy. Images a second of the ceiling are rows a second over the rows that an image
takes: its steps, twice that under guidance. The ceiling does no text encoding, no scheduler step and no decoding.

The ceiling is one session over all cores at its best batch size. Where several sessions side by side, one a core, are
stronger still, the report says so too (``…_of_strongest``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, median
from typing import Protocol

from underpaint.bench.demand.load import Cycle, Percentiles, Window, closed_loop, rate_per_s
from underpaint.bench.denoising.unet import Setup
from underpaint.errors import Internal

CONCURRENCY = 16
_SHORTLIST = 2  # setups of each kind that the search cannot tell apart for noise; each round measures all of them


class Ceiling(Protocol):
    """Something like ``BareUNet``."""

    def rows_per_s(self, setup: Setup, seconds: float) -> float: ...


@dataclass(frozen=True)
class Job:
    """What is served: one image costs ``num_inference_steps * rows_per_step`` rows of the UNet."""

    variant: str
    num_inference_steps: int
    guidance_scale: float

    @property
    def rows_per_step(self) -> int:
        return 2 if self.guidance_scale > 1 else 1

    @property
    def rows_per_image(self) -> int:
        return self.num_inference_steps * self.rows_per_step


@dataclass(frozen=True)
class Pace:
    """How long everything takes: rounds, and seconds of each measurement in them."""

    rounds: int = 3
    served_s: float = 20.0
    ceiling_s: float = 3.0
    search_s: float = 1.0
    ramp_s: float = 5.0


@dataclass(frozen=True)
class Round:
    """One round: images a second of the ceiling by setup, and the cycles of the served load."""

    ceiling_per_s: Mapping[Setup, float]
    many: Sequence[Cycle]
    single: Sequence[Cycle]


@dataclass(frozen=True)
class Measured:
    """Everything that was measured: the search for the ceiling in images a second by setup, and the rounds."""

    job: Job
    search: Mapping[Setup, float]
    rounds: Sequence[Round]


def measure(
    job: Job,
    paint: Callable[[int], object],
    ceiling: Ceiling,
    setups: Sequence[Setup],
    pace: Pace,
    tell: Callable[[str], None] = lambda doing: None,
) -> Measured:
    """Run the benchmark.

    Args:
        paint: has one image of the job served, and blocks until it is there; it is given a running number.
        setups: among these the strongest ceiling is sought.
        tell: called with what is being done, before each of ``measurements(setups, pace)`` measurements.
    """

    def images_per_s(setup: Setup, seconds: float) -> float:
        tell(f"ceiling, {setup}")
        return ceiling.rows_per_s(setup, seconds) / job.rows_per_image

    def served(workers: int) -> list[Cycle]:
        tell(f"generate, {workers} at a time")
        return closed_loop(paint, workers, Window(pace.served_s, pace.ramp_s))

    search = {setup: images_per_s(setup, pace.search_s) for setup in setups}
    kept = shortlist(search, job)
    rounds = []
    for _ in range(pace.rounds):
        before = {setup: images_per_s(setup, pace.ceiling_s) for setup in kept}
        many, single = served(CONCURRENCY), served(1)
        after = {setup: images_per_s(setup, pace.ceiling_s) for setup in kept}
        rounds.append(Round({setup: mean((before[setup], after[setup])) for setup in kept}, many, single))
    return Measured(job, search, rounds)


def measurements(setups: Sequence[Setup], pace: Pace) -> int:
    """How many measurements a run consists of, at most."""
    return len(setups) + pace.rounds * (2 * (2 * _SHORTLIST + 1) + 2)


def shortlist(search: Mapping[Setup, float], job: Job) -> list[Setup]:
    """The setups worth measuring again: the strongest of one session and of all, and what a lone request could use."""
    by_strength = sorted(search, key=lambda setup: search[setup], reverse=True)
    one_session = [setup for setup in by_strength if setup.sessions == 1]
    lone = [setup for setup in by_strength if is_lone(setup, job)]
    return list(dict.fromkeys([*one_session[:_SHORTLIST], *by_strength[:_SHORTLIST], *lone[:1]]))


def is_lone(setup: Setup, job: Job) -> bool:
    """Whether this is what one request at a time can make of the UNet: one call at a time, its own rows only."""
    return setup.sessions == 1 and setup.rows == job.rows_per_step


# Judging --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Summary:
    """Medians over the rounds.

    ``efficiency``: images a second at 16 at a time over those of the ceiling, one bare session at its best batch size;
    ``efficiency_single``: with one at a time, over the same ceiling; ``…_of_strongest``: both over the strongest setup
    of all, sessions side by side included; ``efficiency_single_of_lone``: with one at a time, over one bare session
    that gets the rows of one image only.
    """

    images_per_s: float
    ceiling_images_per_s: float
    efficiency: float
    efficiency_single: float
    efficiency_of_strongest: float
    efficiency_single_of_strongest: float
    efficiency_single_of_lone: float
    images_per_s_single: float
    strongest_images_per_s: float
    ceiling_setup: Setup
    strongest_setup: Setup
    latency_ms: Percentiles
    latency_single_ms: Percentiles


def summarise(measured: Measured) -> Summary:
    rounds = measured.rounds
    by_setup = {setup: median(r.ceiling_per_s[setup] for r in rounds) for setup in rounds[0].ceiling_per_s}
    strongest = max(by_setup, key=lambda setup: by_setup[setup])
    ceiling = max((setup for setup in by_setup if setup.sessions == 1), key=lambda setup: by_setup[setup])
    lone = [setup for setup in rounds[0].ceiling_per_s if is_lone(setup, measured.job)]
    if not lone:
        raise Internal("the ceiling was not measured with the rows of a lone request")
    many, single = [rate_per_s(r.many) for r in rounds], [rate_per_s(r.single) for r in rounds]
    top = [r.ceiling_per_s[ceiling] for r in rounds]
    highest = [r.ceiling_per_s[strongest] for r in rounds]
    alone = [r.ceiling_per_s[lone[0]] for r in rounds]
    return Summary(
        images_per_s=_rounded(median(many)),
        ceiling_images_per_s=_rounded(median(top)),
        efficiency=_rounded(_ratio(many, top)),
        efficiency_single=_rounded(_ratio(single, top)),
        efficiency_of_strongest=_rounded(_ratio(many, highest)),
        efficiency_single_of_strongest=_rounded(_ratio(single, highest)),
        efficiency_single_of_lone=_rounded(_ratio(single, alone)),
        images_per_s_single=_rounded(median(single)),
        strongest_images_per_s=_rounded(median(highest)),
        ceiling_setup=ceiling,
        strongest_setup=strongest,
        latency_ms=Percentiles.of(cycle for r in rounds for cycle in r.many),
        latency_single_ms=Percentiles.of(cycle for r in rounds for cycle in r.single),
    )


def _ratio(served: Sequence[float], ceiling: Sequence[float]) -> float:
    """The median of the rounds' own ratios."""
    return median(a / b for a, b in zip(served, ceiling, strict=True))


def _rounded(value: float) -> float:
    return round(value, 4)
