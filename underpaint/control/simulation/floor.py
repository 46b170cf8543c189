"""Where a simulation's requests wait, and the devices that fetch them."""

from __future__ import annotations

from bisect import insort
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from underpaint.control.simulation.clock import Clock
from underpaint.control.simulation.decisions import Decision
from underpaint.control.simulation.devices import BatchDevice, Device, StepDevice, work
from underpaint.control.simulation.jobs import Job
from underpaint.control.simulation.scenario import Scenario
from underpaint.policies import Noise, Plan


class Floor:
    """Queues and devices, under the decision that is in force."""

    def __init__(
        self,
        scenario: Scenario,
        clock: Clock,
        random: np.random.Generator,
        painted: Callable[[Job, str], None],
        late: Callable[[Job, str], None],
    ) -> None:
        """``painted``: hears of every image; ``late``: of every job that is not worth beginning."""
        self._profile, self._rules, self._fleet = scenario.profile, scenario.rules, scenario.fleet
        self._clock, self._random = clock, random
        self._painted, self._on_late = painted, late
        # By variant, or by device where each has a queue of its own.
        self._queues: dict[Device | str, list[Job]] = defaultdict(list)
        self._decision: Decision | None = None
        self._devices = [self._make_device() for _ in range(scenario.fleet.devices)]

    @property
    def swaps(self) -> int:
        return sum(device.swaps for device in self._devices)

    @property
    def waiting(self) -> Counter[str]:
        """Requests by the variant that they wait for."""
        return Counter(job.plan.variant for queue in self._queues.values() for job in queue if job.plan)

    @property
    def steps(self) -> bool:
        """Whether devices paint step by step, for all variants at once, as our server does."""
        return isinstance(self._devices[0], StepDevice)

    def backlog_s(self) -> float:
        """Seconds until all that has been let in is done, by devices that paint step by step."""
        waiting = (job for queue in self._queues.values() for job in queue)
        work_s = sum(self._profile.variant(job.plan.variant).work_s for job in waiting if job.plan)
        work_s += sum(device.work_s() for device in self._devices if isinstance(device, StepDevice))
        return work_s / len(self._devices)

    def serves(self, variant: str) -> bool:
        """Whether some device has the variant."""
        return bool(self._able(variant))

    def is_late(self, job: Job, variant: str, batch: int = 1) -> bool:
        """Whether the job is not worth beginning, in a batch of that size."""
        seconds = self._profile.variant(variant).seconds(batch) * work(job, self._profile)
        return self._clock.now_s + seconds > job.arrived_s + self._rules.drop_at * self._fleet.slo_s + 1e-9

    def enqueue(self, job: Job) -> None:
        """To the variant's queue, or to one of its devices; to another variant where no device has it."""
        assert job.plan
        able = self._able(job.plan.variant)
        if not able:
            job.plan = Plan(self._substitute(job), Noise())
            able = self._able(job.plan.variant)
        if self._rules.own_queues:
            able = [able[int(self._random.integers(len(able)))]]
            self._queues[able[0]].append(job)
        else:
            insort(self._queues[job.plan.variant], job, key=lambda each: each.due_s)
            able += self._helpers(job.plan.variant)
        for device in able:
            device.wake()

    def assign(self, decision: Decision) -> None:
        """Give the devices their roles; whoever can keeps his."""
        self._decision, allocation = decision, decision.allocation
        roles = Counter({name: round(count) for name, count in allocation.instances.items()})
        others: list[BatchDevice] = []
        for device in self._devices:
            if isinstance(device, BatchDevice) and roles[device.variant] > 0:
                roles[device.variant] -= 1
                device.assign(device.variant, allocation.batches.get(device.variant, 1))
            elif isinstance(device, BatchDevice):
                others.append(device)
        for device, variant in zip(others, list(roles.elements()), strict=False):
            device.assign(variant, allocation.batches.get(variant, 1))
        self._move_stranded()
        for device in self._devices:
            device.wake()

    # What devices ask for ---------------------------------------------------------------------------------------

    def take(self, device: Device, variant: str, count: int) -> list[Job]:
        """Up to ``count`` jobs that are worth beginning."""
        if self._rules.own_queues:
            return self._take(self._queues[device], variant, count)
        taken = self._take(self._queues[variant], variant, count)
        small = self._decision.allocation.small if self._decision else ""
        if not taken and device in self._helpers(small):
            return self._take(self._queues[small], variant, count)
        return taken

    def most_urgent(self, device: StepDevice, count: int) -> list[Job]:
        """The same for a device that paints for all variants; whoever is due first comes first."""
        if self._rules.own_queues:
            queues = [self._queues[device]]
        else:
            queues = [queue for key, queue in self._queues.items() if isinstance(key, str)]
        taken: list[Job] = []
        while len(taken) < count and (filled := [queue for queue in queues if queue]):
            job = min(filled, key=lambda queue: queue[0].due_s).pop(0)
            assert job.plan
            variant = job.plan.variant
            if not self._rules.rescues and self.is_late(job, variant, device.company(variant) + 1):
                self._on_late(job, variant)
            else:
                taken.append(job)
        return taken

    def deliver(self, jobs: Sequence[Job], variant: str) -> None:
        for job in jobs:
            job.painted.append(variant)
            if self.steps and job.plan and self._may_follow(job.plan):
                self.ask(self._profile.costs.discriminator_s, partial(self._painted, job, variant))
            else:
                self._painted(job, variant)

    def ask(self, seconds: float, then: Callable[[], None]) -> None:
        """Have a small model answer; where devices hold one variant each, it has a place of its own."""
        steppers = [device for device in self._devices if isinstance(device, StepDevice)]
        if not seconds:
            then()
        elif steppers:
            steppers[int(self._random.integers(len(steppers)))].score(seconds, then)
        else:
            self._clock.after(seconds, then)

    def _take(self, queue: list[Job], variant: str, count: int) -> list[Job]:
        taken: list[Job] = []
        while queue and len(taken) < count:
            batch = min(count, len(taken) + len(queue))
            job = queue.pop(0)
            if self.is_late(job, variant, batch):
                self._on_late(job, variant)
            else:
                taken.append(job)
        return taken

    # Devices ----------------------------------------------------------------------------------------------------

    def _make_device(self) -> Device:
        if self._profile.shared or self._profile.step_batching:
            return StepDevice(self._clock, self._profile, self, self._random)
        return BatchDevice(self._clock, self._profile, self, self._judged)

    def _judged(self, variant: str) -> bool:
        if self._decision is None or not self._decision.policy.judges:
            return False
        allocation = self._decision.allocation
        return variant == allocation.small and allocation.deferred > 0

    def _may_follow(self, plan: Plan) -> bool:
        """Whether the discriminator is asked, so that the large variant may paint again."""
        return self._decision is not None and self._decision.policy.judges and plan.then is not None

    def _able(self, variant: str) -> list[Device]:
        return [device for device in self._devices if device.serves(variant)]

    def _helpers(self, variant: str) -> list[Device]:
        """Devices of the large variant that refine hits when no miss waits, as MoDM's do."""
        if self._decision is None or not self._decision.policy.needs.matches:
            return []
        small, large = self._decision.allocation.pair
        if variant != small or small == large:
            return []
        return [device for device in self._devices if device.serves(large) and not device.serves(small)]

    def _substitute(self, job: Job) -> str:
        """A variant that some device has, of the present pair if possible."""
        present = self._decision.allocation.pair if self._decision else ()
        wishes = dict.fromkeys((*present, *job.pair, *(each.name for each in self._profile.variants)))
        return next(name for name in wishes if self.serves(name))

    def _move_stranded(self) -> None:
        """Jobs whose device or variant is gone look for another."""
        for key in list(self._queues):
            queue, self._queues[key] = self._queues[key], []
            for job in queue:
                if job.plan and _reachable(key, job.plan.variant, self):
                    self._queues[key].append(job)
                else:
                    self.enqueue(job)


def _reachable(key: Device | str, variant: str, floor: Floor) -> bool:
    return floor.serves(variant) if isinstance(key, str) else key.serves(variant)
