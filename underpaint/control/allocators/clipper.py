"""Controls after Clipper (NSDI '17): one variant on every device, whatever the demand."""

from __future__ import annotations

from underpaint.control.allocation import Allocation, Allocator, Fleet, Form, Load
from underpaint.control.allocators.splits import stage
from underpaint.control.profile import Profile, VariantProfile


class _Clipper(Allocator):
    """
    Published: DiffServe runs it with one image at a time; HADIS, whose profile has cascades, with the largest batch
    that takes no longer than was promised. Corrected: with the largest that leaves time to wait for the one before.
    """

    def __init__(self, form: Form = Form.CORRECTED) -> None:
        self._form = form

    def variant(self, profile: Profile) -> VariantProfile:
        raise NotImplementedError

    def allocate(self, load: Load, profile: Profile, fleet: Fleet, present: Allocation | None = None) -> Allocation:
        chosen = self.variant(profile)
        return Allocation(
            policy="random-mix",
            small=chosen.name,
            large=chosen.name,
            instances={chosen.name: float(fleet.devices)},
            batches={chosen.name: self._batch(chosen, profile, fleet)},
            shares={chosen.name: 1.0},
            loss=chosen.loss,
            reason=f"always {chosen.name}",
        )

    def _batch(self, chosen: VariantProfile, profile: Profile, fleet: Fleet) -> int:
        if self._form == Form.PUBLISHED:
            within = [each.batch for each in chosen.latencies if each.mean_s <= fleet.slo_s]
            return max(within, default=1) if profile.cascades else 1
        return max((each.size for each in stage(chosen, profile).batches if each.latency_s <= fleet.slo_s), default=1)


class ClipperLight(_Clipper):
    """The lightest variant for everything."""

    name = "clipper-light"

    def variant(self, profile: Profile) -> VariantProfile:
        return profile.lightest


class ClipperHeavy(_Clipper):
    """The heaviest."""

    name = "clipper-heavy"

    def variant(self, profile: Profile) -> VariantProfile:
        return profile.heaviest
