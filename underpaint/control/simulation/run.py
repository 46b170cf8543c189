"""One run of the simulator: requests come as scheduled, the server's policy plans them, devices paint, and every period
an allocator looks at what arrived and gives out the devices anew.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from underpaint.control.allocation import Allocation, Allocator, Fleet, Load, Queue, Reuse
from underpaint.control.demand import Demand, Smoothing
from underpaint.control.profile import Profile
from underpaint.control.quantiles import Quantiles
from underpaint.control.simulation.clock import Clock
from underpaint.control.simulation.decisions import Decision, decide, measured
from underpaint.control.simulation.devices import BatchDevice, Device, StepDevice, work
from underpaint.control.simulation.jobs import Job, Rules
from underpaint.control.simulation.population import Population
from underpaint.evidence import Absence, Evidence, Match, Miss
from underpaint.policies import Escalate, Noise, Plan
from underpaint.policies.modm import PUBLISHED as MODM_THRESHOLDS
from underpaint.policies.plan import Fallback
from underpaint.requests import GenerateRequest

_CORPUS = 500  # scores that live thresholds begin with, before any request has come
_CORPUS_WEIGHT = 0.2  # of each, beside one that was seen
_HALF_LIFE_S = 120.0  # after which a score that was seen weighs half


@dataclass(frozen=True)
class Scenario:
    """What is simulated.

    Attributes:
        arrivals_s: when requests come, rising.
        opening_per_s: the demand that the first allocation is made for.
    """

    profile: Profile
    population: Population
    arrivals_s: Sequence[float]
    fleet: Fleet
    rules: Rules
    smoothing: Smoothing
    opening_per_s: float
    seed: int = 0


@dataclass(frozen=True)
class Window:
    """What was decided at a time, and the demand that it was decided for."""

    start_s: float
    demand_per_s: float
    allocation: Allocation


@dataclass(frozen=True)
class Run:
    """What came of it; ``swaps``: how often a device changed its variant."""

    jobs: Sequence[Job]
    windows: Sequence[Window]
    swaps: int


def simulate(scenario: Scenario, allocator: Allocator, tell: Callable[[int], None] = lambda answered: None) -> Run:
    """Until every request has been answered or dropped. ``tell`` hears how many were settled since the last time."""
    server = _Server(scenario, allocator, tell)
    server.run()
    return Run(server.jobs, server.windows, server.swaps)


class _Server:
    def __init__(self, scenario: Scenario, allocator: Allocator, tell: Callable[[int], None]) -> None:
        self._scenario, self._allocator, self._tell = scenario, allocator, tell
        self._profile, self._rules, self._fleet = scenario.profile, scenario.rules, scenario.fleet
        self._clock = Clock()
        self._random = np.random.default_rng(scenario.seed)
        self._measured = measured(scenario.profile)
        self._steps = {each.name: each.steps for each in scenario.profile.variants}
        self._demand = Demand(scenario.smoothing)
        self._arrived: Counter[str] = Counter()  # since the last allocation: all, and by variant
        self._router, self._confidence = self._corpus()
        self._queues: dict[Device | str, list[Job]] = defaultdict(
            list
        )  # by variant, or by device where each has its own
        self._open = len(scenario.arrivals_s)
        self.jobs = self._make_jobs()
        self.windows: list[Window] = []
        self._decision = self._allocate(scenario.opening_per_s, None)
        self._devices = self._make_devices()
        self._assign()

    def run(self) -> None:
        for job in self.jobs:
            self._clock.at(job.arrived_s, lambda job=job: self._arrive(job))  # type: ignore[misc]
        self._clock.after(self._fleet.period_s, self._replan)
        self._clock.run()

    @property
    def swaps(self) -> int:
        return sum(device.swaps for device in self._devices)

    # Requests ---------------------------------------------------------------------------------------------------

    def _make_jobs(self) -> list[Job]:
        prompts = self._random.integers(len(self._scenario.population), size=len(self._scenario.arrivals_s))
        return [
            Job(n, int(p), s, s + self._fleet.slo_s, GenerateRequest(prompt=f"prompt {p}", seed=n))
            for n, (s, p) in enumerate(zip(self._scenario.arrivals_s, prompts, strict=True))
        ]

    def _arrive(self, job: Job) -> None:
        self._arrived[""] += 1
        decision = self._decision
        job.pair = decision.allocation.pair
        router_score = float(self._scenario.population.router[job.prompt])
        if self._rules.live:
            self._router.add(router_score)
        evidence = Evidence(
            in_flight=sum(map(len, self._queues.values())),
            time_left_s=self._fleet.slo_s,
            measured=self._measured,
            matches=self._matches(),
            absence=Absence(Miss.EMPTY),
            router_score=router_score if decision.policy.needs.router else None,
        )
        plan = decision.plan(job.request, evidence)
        delay_s = self._profile.costs.router_s if decision.policy.needs.router else 0.0
        delay_s += self._profile.costs.embedder_s if decision.policy.needs.matches else 0.0
        if delay_s:
            self._clock.after(delay_s, lambda: self._submit(job, plan))
        else:
            self._submit(job, plan)

    def _matches(self) -> tuple[Match, ...]:
        """As the cache would have them: a hit with the similarity that skips as much as was drawn."""
        reuse = self._scenario.population.reuse
        if not reuse.hit_rate or self._random.random() >= reuse.hit_rate:
            return ()
        skip = self._random.choice(list(reuse.skips), p=list(reuse.skips.values()))
        row = min(MODM_THRESHOLDS.rows, key=lambda each: abs(each.skip - skip))
        return (Match(0, row.similarity, "an earlier prompt", self._profile.heaviest.name, 0),)

    def _submit(self, job: Job, plan: Plan) -> None:
        job.plan = plan
        self._arrived[plan.variant] += 1
        self._enqueue(job)

    def _enqueue(self, job: Job) -> None:
        """To the variant's queue, or to one of its devices; to another variant of the pair where it has none."""
        assert job.plan
        able = self._able(job.plan.variant)
        if not able:
            job.plan = Plan(self._substitute(job), Noise())
            able = self._able(job.plan.variant)
        if self._rules.own_queues:
            able = [able[int(self._random.integers(len(able)))]]
            self._queues[able[0]].append(job)
        else:
            self._queues[job.plan.variant].append(job)
            able += self._helpers(job.plan.variant)
        for device in able:
            device.wake()

    def _able(self, variant: str) -> list[Device]:
        return [device for device in self._devices if device.serves(variant)]

    def _substitute(self, job: Job) -> str:
        """A variant that some device serves, of the present pair if possible."""
        wishes = dict.fromkeys((*self._decision.allocation.pair, *job.pair, *self._steps))
        return next(name for name in wishes if self._able(name))

    def _helpers(self, variant: str) -> list[Device]:
        """Devices of the large variant that refine hits when no miss waits, as MoDM's do."""
        small, large = self._decision.allocation.pair
        if not self._decision.policy.needs.matches or variant != small or small == large:
            return []
        return [device for device in self._devices if device.serves(large) and not device.serves(small)]

    # What devices ask for ---------------------------------------------------------------------------------------

    def take(self, device: Device, variant: str, count: int) -> list[Job]:
        """Up to ``count`` jobs that are worth beginning."""
        if self._rules.own_queues:
            return self._take(self._queues[device], variant, count)
        small = self._decision.allocation.small
        taken = self._take(self._queues[variant], variant, count)
        if not taken and device in self._helpers(small):
            return self._take(self._queues[small], variant, count)
        return taken

    def _take(self, queue: list[Job], variant: str, count: int) -> list[Job]:
        if not self._rules.own_queues:
            queue.sort(key=lambda job: job.due_s)
        taken: list[Job] = []
        while queue and len(taken) < count:
            batch = min(count, len(taken) + len(queue))
            job = queue.pop(0)
            if self._late(job, variant, batch):
                self._spare(job, variant)
            else:
                taken.append(job)
        return taken

    def _late(self, job: Job, variant: str, batch: int) -> bool:
        seconds = self._profile.variant(variant).seconds(batch) * work(job, self._profile)
        return self._clock.now_s + seconds > job.arrived_s + self._rules.drop_at * self._fleet.slo_s + 1e-9

    def _spare(self, job: Job, variant: str) -> None:
        """A job that would be late: its small image, a smaller variant, or nothing."""
        small = self._decision.allocation.small
        if self._rules.rescues and job.painted:
            job.fallback = True
            self._settle(job)
        elif self._rules.rescues and variant != small and self._able(small) and not self._late(job, small, 1):
            job.fallback, job.plan = True, Plan(small, Noise())
            self._clock.after(0.0, lambda: self._enqueue(job))
        else:
            job.dropped = True
            self._settle(job)

    def deliver(self, jobs: Sequence[Job], variant: str) -> None:
        for job in jobs:
            job.painted.append(variant)
            self._judge(job, variant)

    def _judge(self, job: Job, variant: str) -> None:
        """What the policy makes of the image."""
        assert job.plan
        decision, score = self._decision, None
        if decision.policy.judges and not job.fallback and job.plan.then is not None:
            score = float(self._scenario.population.confidence[variant][job.prompt])
            if self._rules.live:
                self._confidence.add(score)
        left_s = job.due_s - self._clock.now_s if self._rules.rescues else None
        verdict = decision.policy.after(job.plan, score, left_s, decision.settings)
        if isinstance(verdict, Escalate) and not job.fallback:
            self._submit(job, verdict.plan)
            return
        job.fallback = job.fallback or getattr(verdict, "fallback", None) == Fallback.LATE
        self._settle(job)

    def _settle(self, job: Job) -> None:
        if not job.dropped:
            job.done_s = self._clock.now_s
        self._open -= 1
        self._tell(1)

    # Allocations ------------------------------------------------------------------------------------------------

    def _replan(self) -> None:
        period_s = self._fleet.period_s
        self._demand.count(self._arrived[""], period_s)
        self._decision = self._allocate(self._demand.per_s, self._decision.allocation)
        self._arrived.clear()
        if self._rules.live:
            for scores in (self._router, self._confidence):
                scores.fade(0.5 ** (period_s / _HALF_LIFE_S))
        self._assign()
        if self._open:
            self._clock.after(period_s, self._replan)

    def _allocate(self, demand_per_s: float, present: Allocation | None) -> Decision:
        load = Load(demand_per_s, self._waiting(), self._reuse())
        allocation = self._allocator.allocate(load, self._profile, self._fleet, present)
        self.windows.append(Window(self._clock.now_s, demand_per_s, allocation))
        if present and present.small != allocation.small:
            _, self._confidence = self._corpus(allocation.small)
        return decide(allocation, self._steps, self._router, self._confidence)

    def _reuse(self) -> Reuse:
        return self._scenario.population.reuse

    def _waiting(self) -> dict[str, Queue]:
        waiting = Counter(job.plan.variant for queue in self._queues.values() for job in queue if job.plan)
        period_s = self._fleet.period_s
        return {name: Queue(waiting[name], self._arrived[name] / period_s) for name in self._steps}

    def _corpus(self, small: str | None = None) -> tuple[Quantiles, Quantiles]:
        """Scores to begin with: all of them where thresholds are fixed, else a sample such as a calibration has."""
        population = self._scenario.population
        confidence = population.confidence[small or self._scenario.profile.lightest.name]
        if not self._rules.live:
            return Quantiles.of(population.router), Quantiles.of(confidence)
        sample = self._random.integers(len(population), size=_CORPUS)
        sketches = Quantiles.of(population.router[sample]), Quantiles.of(confidence[sample])
        for sketch in sketches:
            sketch.fade(_CORPUS_WEIGHT)
        return sketches

    # Devices ----------------------------------------------------------------------------------------------------

    def _make_devices(self) -> list[Device]:
        count = self._fleet.devices
        if self._profile.shared or self._profile.step_batching:
            return [StepDevice(self._clock, self._profile, self) for _ in range(count)]
        return [BatchDevice(self._clock, self._profile, self, self._judged) for _ in range(count)]

    def _judged(self, variant: str) -> bool:
        allocation = self._decision.allocation
        return self._decision.policy.judges and variant == allocation.small and allocation.deferred > 0

    def _assign(self) -> None:
        allocation = self._decision.allocation
        roles = _roles(allocation)
        others: list[BatchDevice] = []
        for device in self._devices:
            if isinstance(device, StepDevice):
                device.assign(dict(allocation.batches))
            elif isinstance(device, BatchDevice) and roles[device.variant] > 0:
                roles[device.variant] -= 1
                device.assign(device.variant, allocation.batches.get(device.variant, 1))
            elif isinstance(device, BatchDevice):
                others.append(device)
        for device, variant in zip(others, roles.elements(), strict=False):
            device.assign(variant, allocation.batches.get(variant, 1))
        self._requeue()
        for device in self._devices:
            device.wake()

    def _requeue(self) -> None:
        """Jobs whose device or variant is gone look for another."""
        for key in list(self._queues):
            variant_gone = isinstance(key, str) and not self._able(key)
            stranded = [j for j in self._queues[key] if j.plan and (variant_gone or not _serves(key, j.plan.variant))]
            self._queues[key] = [job for job in self._queues[key] if job not in stranded]
            for job in stranded:
                self._enqueue(job)


def _roles(allocation: Allocation) -> Counter[str]:
    """Whole devices by variant."""
    return Counter({name: round(count) for name, count in allocation.instances.items()})


def _serves(key: Device | str, variant: str) -> bool:
    return True if isinstance(key, str) else key.serves(variant)
