"""HADIS (Yang et al., arXiv 2509.00642): pair, shares, devices and batches at once, from a table of profiled splits."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from underpaint.control.allocation import Allocation, Allocator, Fleet, Form, Load
from underpaint.control.allocators import splits
from underpaint.control.allocators.cascade import Choice, Option, Problem, solve
from underpaint.control.allocators.diffserve import as_measured
from underpaint.control.curves import Cascade
from underpaint.control.profile import Profile
from underpaint.errors import InvalidArgument


class Hadis(Allocator):
    """
    Published: the small variant is charged for all requests, though θ pass it by, and all wait for both variants.
    Corrected: see ``splits``.
    """

    name = "hadis"

    def __init__(self, form: Form = Form.CORRECTED) -> None:
        self._form = form

    def allocate(self, load: Load, profile: Profile, fleet: Fleet, present: Allocation | None = None) -> Allocation:
        if not profile.cascades:
            raise InvalidArgument.of("profile", profile.name, "one with profiled cascades")
        if self._form == Form.PUBLISHED:
            return _published(load, profile, fleet)
        return splits.allocate(self.name, profile.cascades, load, profile, fleet, present)


def _published(load: Load, profile: Profile, fleet: Fleet) -> Allocation:
    """One program for each pair; the best of all pairs wins."""
    found: tuple[Cascade, Choice] | None = None
    for rows in _by_pair(profile.cascades):
        promising = [row for row in rows if found is None or row.loss < found[0].loss]
        choice = solve(_problem(promising, load, profile, fleet)) if promising else None
        if choice:
            found = promising[choice.option], choice
    return _shed(load, profile, fleet) if found is None else _allocation(*found, load)


def _by_pair(cascades: Sequence[Cascade]) -> list[list[Cascade]]:
    """The pair that may win first."""
    pairs: dict[tuple[str, str], list[Cascade]] = defaultdict(list)
    for row in cascades:
        pairs[row.small, row.large].append(row)
    return sorted(pairs.values(), key=lambda rows: min(row.loss for row in rows))


def _problem(rows: Sequence[Cascade], load: Load, profile: Profile, fleet: Fleet) -> Problem:
    small, large = profile.pair(rows[0].small, rows[0].large)
    return Problem(
        options=tuple(Option(1, row.large_share, row.loss) for row in rows),
        small=as_measured(small, load),
        large=as_measured(large, load),
        demand_per_s=load.arrivals_per_s,
        devices=fleet.devices,
        slo_s=fleet.slo_s,
    )


def _allocation(row: Cascade, choice: Choice, load: Load) -> Allocation:
    sizes = [batch.size if batch else 1 for batch in choice.batches]
    return Allocation(
        policy="hadis",
        small=row.small,
        large=row.large,
        instances={row.small: choice.instances[0], row.large: choice.instances[1]},
        batches={row.small: sizes[0], row.large: sizes[1]},
        direct=row.direct,
        deferred=row.deferred,
        loss=row.loss,
        reason=f"best row at {load.arrivals_per_s:.3g}/s",
    )


def _shed(load: Load, profile: Profile, fleet: Fleet) -> Allocation:
    """As its code does: every device paints with the lightest variant of the table, one image at a time."""
    order = [each.name for each in profile.variants]
    row = min(profile.cascades, key=lambda each: order.index(each.small))
    return Allocation(
        policy="hadis",
        small=row.small,
        large=row.large,
        instances={row.small: float(fleet.devices), row.large: 0.0},
        batches={row.small: 1, row.large: 1},
        loss=profile.variant(row.small).loss,
        feasible=False,
        reason=f"infeasible at {load.arrivals_per_s:.3g}/s: all to {row.small}",
    )
