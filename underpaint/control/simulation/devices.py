"""What paints in a simulation: devices that hold one variant and run whole batches, or that step all variants."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np

from underpaint.control.profile import Profile
from underpaint.control.simulation.clock import Clock
from underpaint.control.simulation.jobs import Job
from underpaint.policies import CachedImage

PLACES = 24  # that a front door gives to those who paint (``DoorLimits.concurrency``)
_ALMOST = 1e-9


class Supply(Protocol):
    """Where a device gets its work."""

    def take(self, device: Device, variant: str, count: int) -> list[Job]:
        """Up to so many jobs for a variant."""

    def most_urgent(self, device: StepDevice, count: int) -> list[Job]:
        """Up to so many jobs, whatever variant they want."""

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
    """Holds all variants, and scores besides. Images join between steps, up to ``PLACES`` at a time.

    n of one variant progress as fast together as n at a time did when the profile was measured: that is what a closed
    loop of n says of a network of queues whatever is inside (the flow-equivalent server of Chandy, Herzog and Woo 1975,
    doi 10.1147/rd.191.0036). Where variants together want x times the cores that there are, x > 1, each takes
    1 + (x - 1)·yields times as long, which is x under a scheduler that is fair to threads; where nobody has counted
    cores, each variant wants all of them.
    """

    def __init__(self, clock: Clock, profile: Profile, supply: Supply, random: np.random.Generator) -> None:
        self._clock, self._profile, self._supply, self._random = clock, profile, supply, random
        self._left: dict[str, dict[Job, float]] = {each.name: {} for each in profile.variants}  # of a lone image
        self._scoring: dict[Callable[[], None], float] = {}  # seconds of one core; what is to happen then
        self._seen_s, self._plans = 0.0, 0

    def serves(self, variant: str) -> bool:
        return variant in self._left

    def company(self, variant: str) -> int:
        """How many images of a variant are being painted."""
        return len(self._left[variant])

    def work_s(self) -> float:
        """Of this device, until all that is being painted is done."""
        self._advance()
        return sum(
            max(0.0, sum(left.values())) * self._profile.variant(name).work_s for name, left in self._left.items()
        )

    def wake(self) -> None:
        self._advance()
        room = PLACES - sum(map(len, self._left.values()))
        for job in self._supply.most_urgent(self, room):
            assert job.plan
            self._left[job.plan.variant][job] = work(job, self._profile) * self._luck(job.plan.variant)
        self._plan()

    def score(self, seconds: float, then: Callable[[], None]) -> None:
        """Ask a model that takes so long on a core of its own. It answers one after the other."""
        self._advance()
        self._scoring[then] = seconds
        self._plan()

    def _luck(self, variant: str) -> float:
        """By how much an image takes longer than the mean, for no reason that is known."""
        spread = self._profile.variant(variant).spread
        if not spread:
            return 1.0
        return float(np.interp(self._random.random(), np.linspace(0, 1, len(spread)), spread))

    def _advance(self) -> None:
        elapsed_s, self._seen_s = self._clock.now_s - self._seen_s, self._clock.now_s
        for left, pace in self._paces():
            for each in left:
                left[each] -= elapsed_s * pace

    def _paces(self) -> list[tuple[dict[Any, float], float]]:
        """What is under way, and how much of each progresses in a second."""
        busy = [(self._profile.variant(name), left) for name, left in self._left.items() if left]
        wanted = [variant.cores(len(left)) for variant, left in busy]
        scoring = min(1.0, self._profile.cores) if self._scoring else 0.0
        known = [each for each in wanted if each is not None]
        if self._profile.cores and len(known) == len(wanted):
            crowding = max(0.0, (sum(known) + scoring) / self._profile.cores - 1)
        else:
            crowding = max(0, len(busy) - 1)
        paces: list[tuple[dict[Any, float], float]] = [
            (left, 1 / (variant.seconds(len(left)) * (1 + crowding * variant.yields))) for variant, left in busy
        ]
        return [*paces, (self._scoring, 1 / ((1 + crowding) * max(1, len(self._scoring))))]

    def _plan(self) -> None:
        """Come back when the first is done, unless something happens before."""
        self._plans += 1
        number = self._plans
        waits = [rest / pace for left, pace in self._paces() for rest in left.values()]
        if waits:
            self._clock.after(max(0.0, min(waits)), lambda: self._finish(number))

    def _finish(self, number: int) -> None:
        if number != self._plans:
            return
        self._advance()
        for variant, left in self._left.items():
            if painted := _take_done(left):
                self._supply.deliver(painted, variant)
        for answered in _take_done(self._scoring):
            answered()
        self.wake()


Task = TypeVar("Task")


def _take_done(left: dict[Task, float]) -> list[Task]:
    done = [each for each, rest in left.items() if rest <= _ALMOST]
    for each in done:
        del left[each]
    return done
