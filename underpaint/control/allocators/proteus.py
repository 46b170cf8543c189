"""Proteus (ASPLOS '24): which variants run where, and which share of the requests each gets, no matter which ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from underpaint.control.allocation import Allocation, Allocator, Fleet, Form, Load
from underpaint.control.allocators.splits import UTILISATION, effective_demand, stage
from underpaint.control.milp import Program
from underpaint.control.profile import Latency, Profile, VariantProfile
from underpaint.errors import InvalidArgument

_OVERPROVISION = 1.25  # in HADIS' port
_PORTED_QUEUE = 1.2
_SMALLEST_DEMAND = 1e-6


class Proteus(Allocator):
    """
    Published: as HADIS' artifact ports it. Devices are chosen for the sum of their quality, each device gets an equal
    share of the requests however slow it is, and capacity exceeds the demand by a quarter.

    Corrected: as Proteus has it. Each variant's share of the requests is a variable, quality counts by requests, and a
    batch takes at most half of what was promised.
    """

    name = "proteus"

    def __init__(self, form: Form = Form.CORRECTED) -> None:
        self._form = form

    def allocate(self, load: Load, profile: Profile, fleet: Fleet, present: Allocation | None = None) -> Allocation:
        quality = _quality(profile)
        if self._form == Form.PUBLISHED:
            demand = load.arrivals_per_s
            batches = {each.name: _ported_batch(each, load, fleet) for each in profile.variants}
            solved = _by_device(profile.variants, batches, quality, demand * _OVERPROVISION, fleet)
        else:
            demand = effective_demand(load, fleet)
            batches = {each.name: _half_batch(each, profile, fleet) for each in profile.variants}
            solved = _by_request(profile, batches, quality, demand, fleet)
        if solved is None:
            solved = {profile.lightest.name: float(fleet.devices)}, {profile.lightest.name: 1.0}
            return _allocation(profile, *solved, batches, demand, feasible=False)
        return _allocation(profile, *solved, batches, demand, feasible=True)


def _quality(profile: Profile) -> dict[str, float]:
    """From 0, the worst variant, to 1, the best."""
    losses = {each.name: each.loss for each in profile.variants}
    known = [loss for loss in losses.values() if loss is not None]
    if len(known) < len(losses):
        raise InvalidArgument.of("profile", profile.name, "one that knows how good each variant is")
    worst, best = max(known), min(known)
    return {
        name: 1.0 if worst == best else (worst - loss) / (worst - best)
        for name, loss in losses.items()
        if loss is not None
    }


def _ported_batch(variant: VariantProfile, load: Load, fleet: Fleet) -> Latency | None:
    """The fastest with L(b)·(1 + 1.2·Q/D) ≤ SLO."""
    waiting = sum(queue.waiting for queue in load.queues.values())
    crowd = 1 + _PORTED_QUEUE * waiting / max(load.arrivals_per_s, _SMALLEST_DEMAND)
    fitting = [each for each in variant.latencies if each.mean_s * crowd <= fleet.slo_s]
    return max(fitting, key=lambda each: each.images_per_s, default=None)


def _half_batch(variant: VariantProfile, profile: Profile, fleet: Fleet) -> Latency | None:
    """The fastest that leaves time to wait for the one before."""
    sizes = {each.size for each in stage(variant, profile, both=True).batches if each.latency_s <= fleet.slo_s}
    return max((each for each in variant.latencies if each.batch in sizes), key=lambda e: e.images_per_s, default=None)


_Solved = tuple[dict[str, float], dict[str, float]]  # devices and shares of the requests, by variant


def _by_device(
    variants: Sequence[VariantProfile],
    batches: Mapping[str, Latency | None],
    quality: Mapping[str, float],
    demand: float,
    fleet: Fleet,
) -> _Solved | None:
    program = Program()
    usable = {each.name: batch for each in variants if (batch := batches[each.name])}
    devices = {name: program.variable(-quality[name], fleet.devices, whole=True) for name in usable}
    program.constrain(dict.fromkeys(devices.values(), 1.0), upper=fleet.devices)
    program.constrain({devices[name]: batch.images_per_s for name, batch in usable.items()}, lower=demand)
    values = program.solve()
    if values is None:
        return None
    counts = {name: float(round(values[number])) for name, number in devices.items()}
    total = sum(counts.values()) or 1.0
    return counts, {name: count / total for name, count in counts.items()}


def _by_request(
    profile: Profile,
    batches: Mapping[str, Latency | None],
    quality: Mapping[str, float],
    demand: float,
    fleet: Fleet,
) -> _Solved | None:
    program = Program()
    usable = {each.name: batch for each in profile.variants if (batch := batches[each.name])}
    devices = {name: program.variable(0, fleet.devices, whole=not profile.shared) for name in usable}
    shares = {name: program.variable(-quality[name], 1) for name in usable}
    program.constrain(dict.fromkeys(devices.values(), 1.0), upper=fleet.devices)
    program.constrain(dict.fromkeys(shares.values(), 1.0), lower=1, upper=1)
    for name, batch in usable.items():
        program.constrain({devices[name]: batch.images_per_s, shares[name]: -demand}, lower=0)
    values = program.solve()
    if values is None:
        return None
    counts = {name: values[number] for name, number in devices.items()}
    return counts, {name: values[number] for name, number in shares.items()}


def _allocation(
    profile: Profile,
    counts: Mapping[str, float],
    shares: Mapping[str, float],
    batches: Mapping[str, Latency | None],
    demand: float,
    feasible: bool,
) -> Allocation:
    used = {name: share for name, share in shares.items() if share > 0}
    losses = [share * (profile.variant(name).loss or 0.0) for name, share in used.items()]
    sizes = {each.name: batch.batch if (batch := batches[each.name]) else 1 for each in profile.variants}
    named = [each.name for each in profile.variants if each.name in used]
    return Allocation(
        policy="random-mix",
        small=named[0],
        large=named[-1],
        instances=dict(counts),
        batches=sizes,
        direct=used.get(named[-1], 0.0) if len(named) > 1 else 0.0,
        shares=used,
        loss=sum(losses),
        feasible=feasible,
        reason=f"{demand:.3g}/s over {', '.join(named)} at {UTILISATION:.0%}",
    )
