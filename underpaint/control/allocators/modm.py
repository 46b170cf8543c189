"""MoDM's global monitor (ASPLOS '26, §5): how many devices paint with the large variant, how many refine hits.

With R requests a second, hit rate H and P(k) the share of hits that skip k of T steps, the work is, in full images,

    W_miss = (1 - H)·R        W_hit = H·R·Σ P(k)·(1 - k/T)

and with P_large, P_small images a second on a device, N_large + N_small = N must satisfy

    N_large·P_large ≥ W_miss        (N_large·P_large - W_miss) + N_small·P_small ≥ W_hit

Quality mode takes the largest such N_large, throughput mode balances both kinds of work. A PID controller moves there.
Where no N_large will do with one small variant, the next smaller one is taken.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

from underpaint.control.allocation import Allocation, Allocator, Fleet, Form, Load
from underpaint.control.profile import Profile, VariantProfile

_HEADROOM = 0.9  # of what is left for hits; in the authors' code, not in the paper
_HYSTERESIS = 1.15  # a larger small variant must bear this much more demand before it is taken again
_PUBLISHED_DT = 3.0  # the authors' code has it fixed, whatever the period


class Mode(StrEnum):
    QUALITY = "quality"
    THROUGHPUT = "throughput"


@dataclass(frozen=True)
class Work:
    """Full images a second: ``misses`` and ``hits`` are asked for; ``large`` and ``small`` are what a device makes."""

    misses: float
    hits: float
    large: float
    small: float

    def bearable(self, count: int, devices: int) -> bool:
        """Whether ``count`` devices for the large variant, and the others for the small one, will do."""
        spare = count * self.large - self.misses
        return spare >= -1e-9 and _HEADROOM * (spare + (devices - count) * self.small) >= self.hits - 1e-9


class Modm(Allocator):
    """
    Published: the controller's state is left to run away, an infeasible load ends one step below what misses need, and
    a hit costs nothing but its steps.

    Corrected: misses get what they need at once, the controller only moves within what is feasible, a hit also pays
    for its embedding and the VAE encoder, and where no split is feasible, misses come first.
    """

    name = "modm"

    def __init__(self, form: Form = Form.CORRECTED, mode: Mode = Mode.QUALITY) -> None:
        self._form, self._mode = form, mode

    def allocate(self, load: Load, profile: Profile, fleet: Fleet, present: Allocation | None = None) -> Allocation:
        small, target, feasible = self._small(load, profile, fleet, present)
        pid = _Pid.recall(present, fleet)
        if self._form == Form.PUBLISHED:
            moved = pid.towards(target, fleet.devices, _PUBLISHED_DT)
            count = min(max(round(moved.position), 1), fleet.devices)
        else:
            moved, count = self._settled(pid, target, _work(load, profile, small, self._form), fleet)
        large = profile.heaviest
        return Allocation(
            policy="modm",
            small=small.name,
            large=large.name,
            instances={small.name: float(fleet.devices - count), large.name: float(count)},
            batches={small.name: _batch(small, fleet), large.name: _batch(large, fleet)},
            feasible=feasible,
            reason=f"{self._mode} mode at {load.arrivals_per_s:.3g}/s and {load.reuse.hit_rate:.0%} hits: "
            f"{target:.3g} of {fleet.devices} for {large.name}{'' if feasible else ', which is not enough'}",
            memory=moved.memory(),
        )

    def _small(
        self, load: Load, profile: Profile, fleet: Fleet, present: Allocation | None
    ) -> tuple[VariantProfile, float, bool]:
        """The largest small variant that will do, its target, and whether it will do."""
        order = [each.name for each in profile.variants]
        smaller = profile.variants[-2::-1] or profile.variants
        for small in smaller:
            larger = (
                present is not None and present.small in order and order.index(small.name) > order.index(present.small)
            )
            target, feasible = self._target(load, profile, small, fleet, _HYSTERESIS if larger else 1.0)
            if feasible:
                return small, target, True
        return smaller[-1], self._target(load, profile, smaller[-1], fleet, 1.0)[0], False

    def _target(
        self, load: Load, profile: Profile, small: VariantProfile, fleet: Fleet, margin: float
    ) -> tuple[float, bool]:
        """Devices for the large variant, and whether they will do at ``margin`` times the demand."""
        if not any(_work(load, profile, small, self._form, margin).bearable(n, fleet.devices) for n in _counts(fleet)):
            return self._infeasible(_work(load, profile, small, self._form), fleet), False
        work = _work(load, profile, small, self._form)
        if self._mode == Mode.THROUGHPUT:
            return throughput_target(work, fleet.devices), True
        return float(max(n for n in _counts(fleet) if work.bearable(n, fleet.devices))), True

    def _infeasible(self, work: Work, fleet: Fleet) -> float:
        needed = math.ceil(work.misses / work.large - 1e-9)
        if self._form == Form.PUBLISHED:
            return float(needed - 1)
        return float(min(max(needed, 1), fleet.devices))

    def _settled(self, pid: _Pid, target: float, work: Work, fleet: Fleet) -> tuple[_Pid, int]:
        """Within what is feasible, or at the target where that is nothing."""
        feasible = [n for n in _counts(fleet) if work.bearable(n, fleet.devices)] or [round(target)]
        lowest, highest = min(feasible), max(feasible)
        moved = pid.towards(target, fleet.devices, fleet.period_s / 60)
        held = min(max(moved.position, lowest), highest)
        if held != moved.position:
            moved = _Pid(held)
        return moved, round(held)


def throughput_target(work: Work, devices: int) -> float:
    """N·W_miss / (W' + W_miss), where W' is the hits' work as the large variant would have to do it."""
    as_large = work.hits * work.large / work.small
    total = as_large + work.misses
    return float(devices) if total <= 0 else float(round(devices * work.misses / total))


def _counts(fleet: Fleet) -> range:
    """At least one device keeps the large variant, or the next miss would have to wait for it to load."""
    return range(1, fleet.devices + 1)


def _work(load: Load, profile: Profile, small: VariantProfile, form: Form, margin: float = 1.0) -> Work:
    reuse, rate, large = load.reuse, load.arrivals_per_s * margin, profile.heaviest
    hits = reuse.hit_rate * rate * reuse.left
    if form == Form.CORRECTED:
        extra_s = profile.costs.embedder_s + profile.costs.vae_encoder_s
        hits += reuse.hit_rate * rate * extra_s / small.latencies[0].mean_s
    return Work(
        misses=(1 - reuse.hit_rate) * rate,
        hits=hits,
        large=large.latencies[0].images_per_s,
        small=small.latencies[0].images_per_s,
    )


def _batch(variant: VariantProfile, fleet: Fleet) -> int:
    """MoDM's workers take one request at a time."""
    return variant.latencies[0].batch


@dataclass(frozen=True)
class _Pid:
    """The controller, between two allocations. ``position``: devices for the large variant, not yet rounded."""

    position: float
    integral: float = 0.0
    error: float = 0.0

    @classmethod
    def recall(cls, present: Allocation | None, fleet: Fleet) -> _Pid:
        """From what the present allocation remembers; all devices are the large variant's to begin with."""
        if present is None:
            return cls(float(fleet.devices))
        if "position" in present.memory:
            return cls(**present.memory)
        return cls(present.instances.get(present.large, float(fleet.devices)))

    def memory(self) -> dict[str, float]:
        return {"position": self.position, "integral": self.integral, "error": self.error}

    def towards(self, target: float, devices: int, dt: float) -> _Pid:
        """One step of the controller, at most ``devices`` far."""
        error = target - self.position
        integral = self.integral + error * dt
        step = 0.6 * error + 0.05 * integral + 0.05 * (error - self.error) / dt
        return _Pid(self.position + min(max(step, -devices), devices), integral, error)
