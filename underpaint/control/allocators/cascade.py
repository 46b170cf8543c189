"""The program at the heart of DiffServe's and HADIS' allocators.

Given are options (how a split of the requests loads the small and the large variant, and how good the images are then).
Chosen are one option, a batch size for each variant and the devices that each gets, so that the loss is least:

    minimise    Σ_k o_k·loss_k
    subject to  Σ_j z_ij·rate_ij ≥ demand·Σ_k o_k·load_ki       for i in small, large       (throughput)
                Σ_i wait_i + Σ_ij b_ij·latency_ij ≤ SLO                                     (latency)
                Σ_ij z_ij ≤ devices,   Σ_j b_ij ≤ 1,   Σ_k o_k = 1

The papers multiply a number of devices with a binary for its batch size; here z_ij = b_ij·x_i is the variable, held to
its product by z_ij ≤ devices·b_ij, which makes the program linear and HiGHS exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from underpaint.control.milp import Program


@dataclass(frozen=True)
class Batch:
    """A batch size, what it adds to a request's latency, and how many requests a device serves with it."""

    size: int
    latency_s: float
    per_s: float


@dataclass(frozen=True)
class Stage:
    """One of the two variants: its batch sizes, and how long requests wait for it already."""

    batches: tuple[Batch, ...]
    wait_s: float = 0.0


@dataclass(frozen=True)
class Option:
    """Painted images for each request, by the small variant and by the large one."""

    small_load: float
    large_load: float
    loss: float


@dataclass(frozen=True)
class Problem:
    """``chained``: some requests go through both stages, so that their latencies add up; else each must do alone.

    ``shared``: a device may be split between the variants.
    """

    options: tuple[Option, ...]
    small: Stage
    large: Stage
    demand_per_s: float
    devices: int
    slo_s: float
    chained: bool = True
    shared: bool = False


@dataclass(frozen=True)
class Choice:
    """``option``: its number. ``batches``, ``instances``: small and large; a stage that is not needed may have none."""

    option: int
    loss: float
    batches: tuple[Batch | None, Batch | None]
    instances: tuple[float, float]


def solve(problem: Problem) -> Choice | None:
    """The option of least loss that the devices can bear, or None."""
    kept = [number for number in _undominated(problem.options) if _may_fit(problem, problem.options[number])]
    if not kept:
        return None
    program = Program()
    options = program.choice([problem.options[number].loss for number in kept])
    program.constrain(dict.fromkeys(options, 1.0), lower=1)
    stages = [_add_stage(program, problem, stage) for stage in (problem.small, problem.large)]
    program.constrain({z: 1.0 for _, devices in stages for z in devices}, upper=problem.devices)
    for index, (stage, (_, devices)) in enumerate(zip((problem.small, problem.large), stages, strict=True)):
        capacity = {z: batch.per_s for z, batch in zip(devices, stage.batches, strict=True)}
        need = {o: -problem.demand_per_s * _load(problem.options[k], index) for o, k in zip(options, kept, strict=True)}
        program.constrain(capacity | need, lower=0)
    _limit_latency(program, problem, [picks for picks, _ in stages])
    values = program.solve()
    return None if values is None else _choice(problem, values, options, kept, stages)


def _add_stage(program: Program, problem: Problem, stage: Stage) -> tuple[list[int], list[int]]:
    """Variables of a stage: which batch size, and how many devices with each."""
    picks = program.choice([0.0] * len(stage.batches))
    devices = [program.variable(upper=problem.devices, whole=not problem.shared) for _ in stage.batches]
    for pick, z in zip(picks, devices, strict=True):
        program.constrain({z: 1.0, pick: -float(problem.devices)}, upper=0)
    return picks, devices


def _limit_latency(program: Program, problem: Problem, picks: Sequence[Sequence[int]]) -> None:
    latencies = [
        {pick: batch.latency_s for pick, batch in zip(chosen, stage.batches, strict=True)}
        for chosen, stage in zip(picks, (problem.small, problem.large), strict=True)
    ]
    waits = problem.small.wait_s, problem.large.wait_s
    if problem.chained:
        program.constrain(latencies[0] | latencies[1], upper=problem.slo_s - sum(waits))
        return
    for latency, wait_s in zip(latencies, waits, strict=True):
        program.constrain(latency, upper=max(0.0, problem.slo_s - wait_s))


def _choice(
    problem: Problem,
    values: Sequence[float],
    options: Sequence[int],
    kept: Sequence[int],
    stages: Sequence[tuple[list[int], list[int]]],
) -> Choice:
    chosen = kept[max(range(len(kept)), key=lambda at: values[options[at]])]
    batches: list[Batch | None] = []
    instances: list[float] = []
    for stage, (picks, devices) in zip((problem.small, problem.large), stages, strict=True):
        batches.append(next((b for b, pick in zip(stage.batches, picks, strict=True) if values[pick] > 0.5), None))
        total = sum(values[z] for z in devices)
        instances.append(total if problem.shared else float(round(total)))
    return Choice(chosen, problem.options[chosen].loss, (batches[0], batches[1]), (instances[0], instances[1]))


def _undominated(options: Sequence[Option]) -> list[int]:
    """Numbers of the options that no other beats in both loads and loss; the optimum is among them.

    Sorted by loss: an option is of use only if it loads a variant less than all better ones do.
    """
    kept: list[int] = []
    for number in sorted(range(len(options)), key=lambda at: (options[at].loss, _loads(options[at]))):
        small, large = _loads(options[number])
        if all(small < options[k].small_load or large < options[k].large_load for k in kept):
            kept.append(number)
    return kept


def _may_fit(problem: Problem, option: Option) -> bool:
    """Whether devices would do if they could be split and latency were no concern: what fails this is not tried."""
    stages = problem.small, problem.large
    fastest = [max((batch.per_s for batch in stage.batches), default=0.0) for stage in stages]
    needs = [problem.demand_per_s * load for load in _loads(option)]
    if any(need > 0 and not pace for need, pace in zip(needs, fastest, strict=True)):
        return False
    return sum(need / pace for need, pace in zip(needs, fastest, strict=True) if need) <= problem.devices + 1e-6


def _loads(option: Option) -> tuple[float, float]:
    return option.small_load, option.large_load


def _load(option: Option, index: int) -> float:
    return _loads(option)[index]


def spread(needed: Sequence[float], present: Sequence[float], devices: int) -> list[float]:
    """Give out what is left: first to whoever has it already, so that little is moved, then where it helps most."""
    given = list(needed)
    for at, had in enumerate(present):
        given[at] += max(0.0, min(had - given[at], devices - sum(given)))
    while (left := devices - sum(given)) > 1e-9 and any(needed):
        busiest = max((at for at in range(len(given)) if needed[at]), key=lambda at: needed[at] / given[at])
        given[busiest] += min(1.0, left)
    return given
