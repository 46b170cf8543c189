"""How long allocators take to decide: the time that a monitor needs for one look at the load."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median

from underpaint.control.allocation import Allocation, Allocator, Fleet, Form, Load
from underpaint.control.allocators.diffserve import Diffserve
from underpaint.control.allocators.hadis import Hadis
from underpaint.control.curves import Cascade
from underpaint.control.profile import Profile, VariantProfile
from underpaint.control.published import published

DEVICES = (16, 128)
_SHARES = tuple(round(0.1 * each, 1) for each in range(11))
_LOADS = (0.1, 0.25, 0.4, 0.5, 0.6, 0.75, 0.9, 1.2)  # of what the lightest variant alone could bear


@dataclass
class Timing:
    """Wall-clock and processor milliseconds of each decision; the latter says more on a busy machine."""

    wall_ms: list[float] = field(default_factory=list)
    processor_ms: list[float] = field(default_factory=list)

    @property
    def median_ms(self) -> float:
        return median(self.wall_ms)


@dataclass(frozen=True)
class Case:
    """One allocator on one fleet."""

    allocator: str
    form: Form
    devices: int


def cases() -> list[Case]:
    return [Case(name, form, devices) for name in ("diffserve", "hadis") for form in Form for devices in DEVICES]


def time_case(case: Case, data: Path | None, rounds: int, tell: Callable[[], None]) -> Timing:
    """At light to excessive loads, each decided with what was decided before in mind."""
    profile = diffserve_profile(data) if case.allocator == "diffserve" else hadis_profile(data)
    allocator = _allocator(case, profile)
    fleet = Fleet(case.devices, profile.slo_s)
    timing, present = Timing(), None
    for demand in _demands(profile, fleet, rounds):
        present = _timed(allocator, Load(demand), profile, fleet, present, timing)
        tell()
    return timing


def decisions(rounds: int) -> int:
    """How many each case takes."""
    return rounds * len(_LOADS)


def _demands(profile: Profile, fleet: Fleet, rounds: int) -> Iterator[float]:
    light = profile.lightest
    most = fleet.devices * max(each.images_per_s for each in light.within(fleet.slo_s / 2))
    for number in range(rounds):
        # Up one round and down the next, and never twice the same problem.
        for load in _LOADS[:: 1 if number % 2 == 0 else -1]:
            yield load**2 * most * (1 + 0.01 * number)


def _timed(
    allocator: Allocator, load: Load, profile: Profile, fleet: Fleet, present: Allocation | None, timing: Timing
) -> Allocation:
    wall, processor = time.perf_counter(), time.process_time()
    found = allocator.allocate(load, profile, fleet, present)
    timing.wall_ms.append(1000 * (time.perf_counter() - wall))
    timing.processor_ms.append(1000 * (time.process_time() - processor))
    return found


def _allocator(case: Case, profile: Profile) -> Allocator:
    if case.allocator == "hadis":
        return Hadis(case.form)
    return Diffserve(case.form, (profile.lightest.name, profile.heaviest.name))


def diffserve_profile(data: Path | None) -> Profile:
    """DiffServe's first cascade, on its full grid of 201 thresholds where the scores are at hand."""
    return published("diffserve-1", data)


def hadis_profile(data: Path | None) -> Profile:
    """HADIS' four variants with all 726 configurations; without its table, as many of the same kind."""
    if data is not None:
        return published("hadis-726", data)
    known = published("hadis")
    return replace(known, name="hadis-like", cascades=tuple(_configurations(known.variants)))


def _configurations(variants: Sequence[VariantProfile]) -> Iterator[Cascade]:
    """Every pair at every share; the loss falls from one variant's to the other's, most of it at small shares."""
    for at, small in enumerate(variants):
        for large in variants[at + 1 :]:
            for direct in _SHARES:
                for deferred in _SHARES:
                    row = Cascade(small.name, large.name, direct, deferred, 0.0)
                    gain = (small.loss or 0.0) - (large.loss or 0.0)
                    yield replace(row, loss=(small.loss or 0.0) - gain * row.large_share**0.6)
