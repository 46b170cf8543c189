"""The corrected form of cascade allocation, which ``diffserve`` and ``hadis`` share.

Against the published ones:

- the small variant is charged only for the requests that reach it, 1 - θ;
- latency is limited path by path: what goes straight to the large variant does not wait for the small one;
- router and discriminator cost time, and a request that just misses a batch waits for it to end;
- devices are loaded to ``UTILISATION`` at most, and what waits already counts as demand;
- better images are worth a change only if they could also be had at a somewhat higher demand, and if the devices that
  are left while others swap their model can bear it; a change that the demand forces is made at once;
- where nothing is feasible, everything goes to the lightest variant, and the allocation says so.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from underpaint.control.allocation import Allocation, Fleet, Load
from underpaint.control.allocators.cascade import Batch, Choice, Option, Problem, Stage, solve, spread
from underpaint.control.curves import Cascade
from underpaint.control.profile import Profile, VariantProfile

UTILISATION = 0.9
HYSTERESIS = 0.15  # how much more demand an allocation with better images must bear
_SMALLEST_DEMAND = 0.01  # so that whoever comes first finds a variant that is ready
_WORTH = 1e-9  # differences of loss below this are none


@dataclass(frozen=True)
class Found:
    """A split that the devices can bear, and what they do for it."""

    split: Cascade
    choice: Choice


def allocate(
    policy: str, splits: Sequence[Cascade], load: Load, profile: Profile, fleet: Fleet, present: Allocation | None
) -> Allocation:
    """The split of least loss, unless the present one is good enough to stay with."""
    demand = effective_demand(load, fleet)
    if present is not None and present.feasible and present.policy == policy:
        kept = _keep(splits, present, demand, profile, fleet)
        better = _better(splits, present, demand * (1 + HYSTERESIS), profile, fleet) if kept else None
        if better and kept and (found := _upgrade(better, demand, profile, fleet, present)):
            return _allocation(policy, found, profile, fleet, present, f"better images at {demand:.3g}/s")
        if kept:
            return _allocation(policy, kept, profile, fleet, present, f"still right at {demand:.3g}/s")
    found = best(splits, demand, profile, fleet)
    if found is None:
        return _overload(policy, splits, demand, profile, fleet)
    return _allocation(policy, found, profile, fleet, present, f"best of {len(splits)} splits at {demand:.3g}/s")


def effective_demand(load: Load, fleet: Fleet) -> float:
    """Requests a second that capacity is needed for: those that come, and those that wait, within the promise."""
    waiting = sum(queue.waiting for queue in load.queues.values())
    return max(_SMALLEST_DEMAND, (load.arrivals_per_s + waiting / fleet.slo_s) / UTILISATION)


def best(splits: Sequence[Cascade], demand: float, profile: Profile, fleet: Fleet) -> Found | None:
    """The feasible split of least loss. Groups that cannot beat what was found are not even tried."""
    found: Found | None = None
    for group in _groups(splits):
        if found and group[0].loss >= found.choice.loss - _WORTH:
            break
        promising = [split for split in group if found is None or split.loss < found.choice.loss - _WORTH]
        choice = solve(_problem(promising, demand, profile, fleet))
        if choice:
            found = Found(promising[choice.option], choice)
    return found


def _groups(splits: Iterable[Cascade]) -> list[list[Cascade]]:
    """By pair, by whether any request goes through both variants, and by whether both work at all; each by rising
    loss, the most promising first."""
    groups: dict[tuple[str, str, bool, bool], list[Cascade]] = defaultdict(list)
    for split in sorted(splits, key=lambda each: each.loss):
        groups[split.small, split.large, _chained(split), _both(split)].append(split)
    return sorted(groups.values(), key=lambda group: group[0].loss)


def _chained(split: Cascade) -> bool:
    return split.deferred > 0 and split.direct < 1


def _both(split: Cascade) -> bool:
    return split.large_share > 0 and split.direct < 1


def _problem(group: Sequence[Cascade], demand: float, profile: Profile, fleet: Fleet) -> Problem:
    small, large = profile.pair(group[0].small, group[0].large)
    chained = _chained(group[0])
    router_s = profile.costs.router_s if any(split.direct > 0 for split in group) else 0.0
    judging_s = profile.costs.discriminator_s if chained else 0.0
    return Problem(
        options=tuple(Option(1 - split.direct, split.large_share, split.loss) for split in group),
        small=stage(small, profile, judging_s, _both(group[0])),
        large=stage(large, profile, both=_both(group[0])),
        demand_per_s=demand,
        devices=fleet.devices,
        slo_s=fleet.slo_s - router_s,
        chained=chained,
        shared=profile.shared,
    )


def stage(variant: VariantProfile, profile: Profile, judging_s: float = 0.0, both: bool = False) -> Stage:
    """Batches as a request sees them: it may just have missed one, unless it can join between steps; and where
    variants share a device, it has half of it while both are at work."""
    turns = (1 if profile.step_batching else 2) * (2 if profile.shared and both else 1)
    return Stage(
        tuple(
            Batch(each.batch, turns * (each.late_s + judging_s), each.batch / (each.mean_s + judging_s))
            for each in variant.latencies
        )
    )


# Staying and changing -------------------------------------------------------------------------------------------


def _keep(
    splits: Sequence[Cascade], present: Allocation, demand: float, profile: Profile, fleet: Fleet
) -> Found | None:
    """The present split, if it is still among the options and still feasible."""
    same = [split for split in splits if _is(split, present)]
    return best(same, demand, profile, fleet)


def _is(split: Cascade, present: Allocation) -> bool:
    same_shares = math.isclose(split.direct, present.direct) and math.isclose(split.deferred, present.deferred)
    return (split.small, split.large) == present.pair and same_shares


def _better(
    splits: Sequence[Cascade], present: Allocation, demand: float, profile: Profile, fleet: Fleet
) -> Found | None:
    now = math.inf if present.loss is None else present.loss
    return best([split for split in splits if split.loss < now - _WORTH], demand, profile, fleet)


def _upgrade(found: Found, demand: float, profile: Profile, fleet: Fleet, present: Allocation) -> Found | None:
    """The same split, dimensioned for the demand as it is, if the devices that need not swap bear it meanwhile."""
    wanted = best([found.split], demand, profile, fleet)
    if wanted is None:
        return None
    lost = _swapping(_instances(wanted, present, fleet), present.instances, profile) / fleet.period_s
    if lost <= 0:
        return wanted
    left = fleet.devices - math.ceil(lost)
    return wanted if left > 0 and best([found.split], demand, profile, replace(fleet, devices=left)) else None


def _swapping(wanted: Mapping[str, float], present: Mapping[str, float], profile: Profile) -> float:
    """Device-seconds that go into loading models."""
    if profile.shared:
        return 0.0
    return sum(
        max(0.0, count - present.get(name, 0.0)) * profile.variant(name).load_s for name, count in wanted.items()
    )


# Allocations ----------------------------------------------------------------------------------------------------


def _instances(found: Found, present: Allocation | None, fleet: Fleet) -> dict[str, float]:
    names = found.split.small, found.split.large
    had = [present.instances.get(name, 0.0) if present else 0.0 for name in names]
    return dict(zip(names, spread(found.choice.instances, had, fleet.devices), strict=True))


def _allocation(
    policy: str, found: Found, profile: Profile, fleet: Fleet, present: Allocation | None, reason: str
) -> Allocation:
    split, choice = found.split, found.choice
    batches = {
        name: batch.size if batch else 1 for name, batch in zip((split.small, split.large), choice.batches, strict=True)
    }
    return Allocation(
        policy=policy,
        small=split.small,
        large=split.large,
        instances=_instances(found, present, fleet),
        batches=batches,
        direct=split.direct,
        deferred=split.deferred,
        loss=split.loss,
        reason=reason,
    )


def _overload(policy: str, splits: Sequence[Cascade], demand: float, profile: Profile, fleet: Fleet) -> Allocation:
    """Everything to the lightest variant that any split knows, in the largest batches that keep the promise."""
    order = [each.name for each in profile.variants]
    split = min(splits, key=lambda each: (order.index(each.small), order.index(each.large)))
    light = profile.variant(split.small)
    batches = [each.size for each in stage(light, profile).batches if each.latency_s <= fleet.slo_s]
    return Allocation(
        policy=policy,
        small=split.small,
        large=split.large,
        instances={split.small: float(fleet.devices), split.large: 0.0},
        batches={split.small: max(batches, default=1), split.large: 1},
        loss=light.loss,
        feasible=False,
        reason=f"nothing keeps {fleet.slo_s:g} s at {demand:.3g}/s on {fleet.devices}: all to {split.small}",
    )
