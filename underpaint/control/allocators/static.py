"""A control: an allocation that is made once and never changes."""

from __future__ import annotations

from dataclasses import dataclass, replace

from underpaint.control.allocation import Allocation, Allocator, Fleet, Form, Load
from underpaint.control.allocators.diffserve import Diffserve
from underpaint.control.allocators.hadis import Hadis
from underpaint.control.profile import Profile
from underpaint.errors import InvalidArgument


@dataclass(frozen=True)
class _Fixed:
    """DiffServe-Static: threshold, devices and batch sizes of the light and the heavy model."""

    confidence: float
    devices: tuple[int, int]
    batches: tuple[int, int]


_DIFFSERVE_STATIC = {  # for 16 devices, from DiffServe's artifact
    "diffserve-1": _Fixed(0.02, (4, 12), (16, 4)),
    "diffserve-2": _Fixed(0.12, (2, 14), (32, 4)),
    "diffserve-3": _Fixed(0.02, (9, 7), (4, 2)),
}


class Static(Allocator):
    """
    Published: what DiffServe's authors fixed for their cascades. Corrected: the best allocation for one demand.
    """

    name = "static"

    def __init__(self, form: Form = Form.CORRECTED, design_per_s: float | None = None) -> None:
        """``design_per_s``: the demand that it is made for; default: the first that it meets."""
        self._form, self._design_per_s = form, design_per_s

    def allocate(self, load: Load, profile: Profile, fleet: Fleet, present: Allocation | None = None) -> Allocation:
        if present is not None:
            return present
        if self._form == Form.PUBLISHED:
            return _published(profile, fleet)
        design = load.arrivals_per_s if self._design_per_s is None else self._design_per_s
        once: Allocator = Hadis() if profile.cascades else Diffserve()
        made = once.allocate(Load(design, reuse=load.reuse), profile, fleet)
        return replace(made, reason=f"made once: {made.reason}")


def _published(profile: Profile, fleet: Fleet) -> Allocation:
    fixed = _DIFFSERVE_STATIC.get(profile.name)
    if fixed is None:
        raise InvalidArgument.of("profile", profile.name, f"{', '.join(_DIFFSERVE_STATIC)} for the published form")
    small, large = profile.lightest.name, profile.heaviest.name
    light = max(1, round(fixed.devices[0] * fleet.devices / sum(fixed.devices)))
    curve = profile.deferral(small)
    return Allocation(
        policy="diffserve",
        small=small,
        large=large,
        instances={small: float(light), large: float(fleet.devices - light)},
        batches=dict(zip((small, large), fixed.batches, strict=True)),
        deferred=curve.share(fixed.confidence) if curve else 0.0,
        confidence=fixed.confidence,
        reason="as published for 16 devices",
    )
