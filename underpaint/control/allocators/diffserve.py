"""DiffServe (Ahmad et al., MLSys 2025): one pair, and the highest confidence threshold that the devices can bear."""

from __future__ import annotations

from underpaint.control.allocation import Allocation, Allocator, Fleet, Form, Load
from underpaint.control.allocators import splits
from underpaint.control.allocators.cascade import Batch, Option, Problem, Stage, solve
from underpaint.control.curves import Cascade
from underpaint.control.profile import Profile, VariantProfile
from underpaint.errors import InvalidArgument

_INFEASIBLE_BATCH = 16  # as in HADIS' port; DiffServe's own planner dies of an infeasible problem
_PERCENT = [each / 100 for each in range(101)]


class Diffserve(Allocator):
    """
    Published: maximise t, where every request passes the small variant and both latencies are added up for all.

    Corrected: choose the deferral with the best images. More of it is not always better, since FID rewards a mixture;
    where the profile has no losses, the most deferral is taken. The threshold follows from live scores.
    """

    name = "diffserve"

    def __init__(self, form: Form = Form.CORRECTED, pair: tuple[str, str] | None = None) -> None:
        """``pair``: small and large; default: the heaviest variant and the lightest whose mixture with it was profiled,
        or simply the lightest."""
        self._form, self._pair = form, pair

    def allocate(self, load: Load, profile: Profile, fleet: Fleet, present: Allocation | None = None) -> Allocation:
        small, large = self._pair or _default_pair(profile)
        if self._form == Form.PUBLISHED:
            return _published(load, profile, fleet, small, large)
        return splits.allocate(self.name, _deferrals(profile, small, large), load, profile, fleet, present)


def _default_pair(profile: Profile) -> tuple[str, str]:
    order, large = [each.name for each in profile.variants], profile.heaviest.name
    mixed = [mix.small for mix in profile.mixes if mix.large == large]
    return min(mixed, key=order.index, default=order[0]), large


def _deferrals(profile: Profile, small: str, large: str) -> list[Cascade]:
    profile.pair(small, large)
    mix = profile.mix(small, large)
    return [Cascade(small, large, 0.0, share, mix.loss(share) if mix else -share) for share in _PERCENT]


def _published(load: Load, profile: Profile, fleet: Fleet, small: str, large: str) -> Allocation:
    deferral = profile.deferral(small)
    if deferral is None:
        raise InvalidArgument.of("profile", profile.name, f"one with a deferral curve of {small}")
    problem = Problem(
        options=tuple(Option(1, share, -t) for t, share in zip(deferral.thresholds, deferral.shares, strict=True)),
        small=as_measured(profile.variant(small), load),
        large=as_measured(profile.variant(large), load),
        demand_per_s=load.arrivals_per_s,
        devices=fleet.devices,
        slo_s=fleet.slo_s,
    )
    choice = solve(problem)
    if choice is None:
        return _all_light(load, profile, fleet, small, large)
    sizes = [batch.size if batch else 1 for batch in choice.batches]
    t, share = deferral.thresholds[choice.option], deferral.shares[choice.option]
    return Allocation(
        policy="diffserve",
        small=small,
        large=large,
        instances={small: choice.instances[0], large: choice.instances[1]},
        batches={small: sizes[0], large: sizes[1]},
        deferred=share,
        confidence=t,
        reason=f"highest threshold at {load.arrivals_per_s:.3g}/s",
    )


def as_measured(variant: VariantProfile, load: Load) -> Stage:
    """As the papers count: a batch takes its mean time, and a request waits by Little's law."""
    batches = tuple(Batch(each.batch, each.mean_s, each.images_per_s) for each in variant.latencies)
    return Stage(batches, load.wait_s(variant.name))


def _all_light(load: Load, profile: Profile, fleet: Fleet, small: str, large: str) -> Allocation:
    sizes = [each.batch for each in profile.variant(small).latencies if each.batch <= _INFEASIBLE_BATCH]
    return Allocation(
        policy="diffserve",
        small=small,
        large=large,
        instances={small: float(fleet.devices), large: 0.0},
        batches={small: max(sizes), large: 1},
        confidence=0.0,
        feasible=False,
        reason=f"infeasible at {load.arrivals_per_s:.3g}/s: all to {small}",
    )
