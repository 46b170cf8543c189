"""What paints in a simulation: devices that hold one variant and run whole batches, or that step all variants."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from underpaint.control.profile import Profile
from underpaint.control.simulation.clock import Clock
from underpaint.control.simulation.jobs import Job
from underpaint.policies import CachedImage

_ALMOST = 1e-9


class Supply(Protocol):
    """Where a device gets its work."""

    def take(self, device: Device, variant: str, count: int) -> list[Job]:
        """Up to so many jobs for a variant."""

    def deliver(self, jobs: Sequence[Job], variant: str) -> None:
        """They have been painted."""


class Device:
    """``swaps``: how often it has changed its variant."""

    swaps = 0

    def serves(self, variant: str) -> bool:
        """Whether it has the variant, or is loading it."""
        raise NotImplementedError

    def wake(self) -> None:
        """There may be work."""
        raise NotImplementedError


def work(job: Job, profile: Profile) -> float:
    """How much of a full image is to be painted: a cached start saves its steps."""
    if job.plan is None or not isinstance(job.plan.start, CachedImage):
        return 1.0
    return 1 - job.plan.start.skip / profile.variant(job.plan.variant).steps


class BatchDevice(Device):
    """Holds one variant at a time. Whatever waits is painted at once, up to the batch size; never waits to fill one."""

    def __init__(self, clock: Clock, profile: Profile, supply: Supply, judged: Callable[[str], bool]) -> None:
        """``judged``: whether the discriminator runs on a variant's images."""
        self._clock, self._profile, self._supply, self._judged = clock, profile, supply, judged
        self.variant, self.batch, self.swaps = "", 1, 0
        self._busy = self._loading = False
        self._loads = 0

    def serves(self, variant: str) -> bool:
        return self.variant == variant

    def assign(self, variant: str, batch: int) -> None:
        """Change role, once what is being painted is done; the device is out of service while it loads."""
        self.batch = batch
        if variant == self.variant:
            return
        first, self.variant = not self.variant, variant
        if not first:
            self.swaps += 1
            self._loading = True
            if not self._busy:
                self._load()

    def wake(self) -> None:
        if self._busy or self._loading or not self.variant:
            return
        jobs = self._supply.take(self, self.variant, self.batch)
        if not jobs:
            return
        self._busy = True
        variant = self.variant
        self._clock.after(self.seconds(variant, jobs), lambda: self._finish(jobs, variant))

    def seconds(self, variant: str, jobs: Sequence[Job]) -> float:
        """Of a batch; the longest job of it decides."""
        judging_s = self._profile.costs.discriminator_s if self._judged(variant) else 0.0
        return (
            self._profile.variant(variant).seconds(len(jobs)) * max(work(job, self._profile) for job in jobs)
            + judging_s
        )

    def _finish(self, jobs: Sequence[Job], variant: str) -> None:
        self._busy = False
        self._supply.deliver(jobs, variant)
        if self._loading:
            self._load()
        else:
            self.wake()

    def _load(self) -> None:
        self._loads += 1
        number = self._loads
        self._clock.after(self._profile.variant(self.variant).load_s, lambda: self._loaded(number))

    def _loaded(self, number: int) -> None:
        if number == self._loads:  # else it has been told to load something else meanwhile
            self._loading = False
            self.wake()


class StepDevice(Device):
    """Holds all variants, which share it evenly. Jobs join at any time, up to the batch size of their variant; n of
    them together progress as fast as a batch of n does.
    """

    def __init__(self, clock: Clock, profile: Profile, supply: Supply) -> None:
        self._clock, self._profile, self._supply = clock, profile, supply
        self._left: dict[str, dict[Job, float]] = {each.name: {} for each in profile.variants}
        self._batches = dict.fromkeys(self._left, 1)
        self._seen_s, self._plans = 0.0, 0

    def serves(self, variant: str) -> bool:
        return variant in self._left

    def assign(self, batches: dict[str, int]) -> None:
        self._batches.update(batches)

    def wake(self) -> None:
        self._advance()
        for variant, left in self._left.items():
            room = max(0, self._batches[variant] - len(left))
            for job in self._supply.take(self, variant, room) if room else ():
                left[job] = work(job, self._profile)
        self._plan()

    def _advance(self) -> None:
        elapsed_s, self._seen_s = self._clock.now_s - self._seen_s, self._clock.now_s
        for variant, pace in self._paces().items():
            for job in self._left[variant]:
                self._left[variant][job] -= elapsed_s * pace

    def _paces(self) -> dict[str, float]:
        """Images a second that each job of a variant progresses by."""
        busy = {variant: left for variant, left in self._left.items() if left}
        return {v: 1 / (len(busy) * self._profile.variant(v).seconds(len(left))) for v, left in busy.items()}

    def _plan(self) -> None:
        """Come back when the first job is done, unless something happens before."""
        self._plans += 1
        number = self._plans
        paces = self._paces()
        waits = [left / paces[variant] for variant in paces for left in self._left[variant].values()]
        if waits:
            self._clock.after(max(0.0, min(waits)), lambda: self._finish(number))

    def _finish(self, number: int) -> None:
        if number != self._plans:
            return
        self._advance()
        for variant, left in self._left.items():
            done = [job for job, rest in left.items() if rest <= _ALMOST]
            for job in done:
                del left[job]
            if done:
                self._supply.deliver(done, variant)
        self.wake()
