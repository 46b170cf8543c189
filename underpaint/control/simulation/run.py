"""One run of the simulator: requests come as scheduled, the server's policy plans them, devices paint, and every period
an allocator looks at what arrived and gives out the devices anew.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from underpaint.control.allocation import Allocator, Queue
from underpaint.control.simulation.clock import Clock
from underpaint.control.simulation.controller import Controller
from underpaint.control.simulation.decisions import Decision, measured
from underpaint.control.simulation.floor import Floor
from underpaint.control.simulation.jobs import Job
from underpaint.control.simulation.scenario import Run, Scenario
from underpaint.evidence import Absence, Evidence, Match, Miss
from underpaint.policies import Accept, Escalate, Noise, Plan
from underpaint.policies.admission import Room, admit, held_up_s
from underpaint.policies.modm import PUBLISHED as MODM_THRESHOLDS
from underpaint.policies.plan import Fallback
from underpaint.requests import GenerateRequest


def simulate(
    scenario: Scenario, allocator: Allocator | Decision, tell: Callable[[int], None] = lambda settled: None
) -> Run:
    """Until every request has been answered or dropped; by an allocator, or by what was decided once and for all.

    ``tell`` hears how many requests were settled since the last time.
    """
    return _Server(scenario, allocator, tell).run()


class _Server:
    """The front door of a simulation."""

    def __init__(self, scenario: Scenario, allocator: Allocator | Decision, tell: Callable[[int], None]) -> None:
        self._scenario, self._tell = scenario, tell
        self._clock, self._random = Clock(), np.random.default_rng(scenario.seed)
        self._measured = measured(scenario.profile)
        self._jobs = self._make_jobs()
        self._open, self._inside, self._arrived = len(self._jobs), 0, 0
        self._sent: Counter[str] = Counter()  # to each variant, since the last allocation
        self._controller = Controller(scenario, allocator, self._random)
        self._floor = Floor(scenario, self._clock, self._random, self._judge, self._spare)

    def run(self) -> Run:
        self._floor.assign(self._controller.decision)
        for job in self._jobs:
            self._clock.at(job.arrived_s, lambda job=job: self._arrive(job))  # type: ignore[misc]
        self._clock.after(self._scenario.fleet.period_s, self._replan)
        self._clock.run()
        return Run(self._jobs, self._controller.windows, self._floor.swaps)

    def _make_jobs(self) -> list[Job]:
        scenario = self._scenario
        count = len(scenario.arrivals_s)
        prompts = scenario.prompts or self._random.integers(len(scenario.population), size=count).tolist()
        return [
            Job(n, p, s, s + scenario.fleet.slo_s, GenerateRequest(prompt=f"prompt {p}", seed=n))
            for n, (s, p) in enumerate(zip(scenario.arrivals_s, prompts, strict=True))
        ]

    def _replan(self) -> None:
        period_s, waiting = self._scenario.fleet.period_s, self._floor.waiting
        queues = {name: Queue(waiting[name], self._sent[name] / period_s) for name in self._scenario.steps}
        arrivals = round(self._inside * period_s) if self._scenario.rules.outstanding else self._arrived
        self._controller.step(self._clock.now_s, arrivals, queues)
        self._arrived = 0
        self._sent.clear()
        self._floor.assign(self._controller.decision)
        if self._open:
            self._clock.after(period_s, self._replan)

    # A request --------------------------------------------------------------------------------------------------

    def _arrive(self, job: Job) -> None:
        self._arrived, self._inside = self._arrived + 1, self._inside + 1
        decision, costs = self._controller.decision, self._scenario.profile.costs
        needs, job.pair = decision.policy.needs, decision.allocation.pair
        score = float(self._scenario.population.router[job.prompt])
        self._controller.saw_prompt(score)
        evidence = Evidence(
            in_flight=self._inside,
            time_left_s=self._scenario.fleet.slo_s,
            measured=self._measured,
            matches=self._matches() if needs.matches else (),
            absence=Absence(Miss.EMPTY),
        )
        routed = decision.policy.asks_router(job.request, evidence, decision.settings)
        evidence = replace(evidence, router_score=score if routed else None)
        plan = decision.plan(job.request, evidence)
        if self._floor.steps and self._scenario.rules.rescues:
            plan = self._admit(job, plan, evidence)
        asking_s = (costs.router_s if routed else 0.0) + (costs.embedder_s if needs.matches else 0.0)
        self._floor.ask(asking_s, lambda: self._submit(job, plan))

    def _admit(self, job: Job, plan: Plan, evidence: Evidence) -> Plan:
        """As our front door does with what cannot be done in time."""
        decision = self._controller.decision
        settings = replace(decision.settings, slo_ms=max(1, round(1000 * self._scenario.fleet.slo_s)))
        room = Room(self._floor.backlog_s(), self._clock.now_s - job.arrived_s, self._work_s)
        admitted = admit(decision.policy, plan, job.request, evidence, settings, room)
        job.fallback |= admitted.downgrade is not None
        return admitted.plan

    def _work_s(self, variant: str, steps: int) -> float:
        return self._measured.work_ms[variant] * steps / 1e3

    def _matches(self) -> tuple[Match, ...]:
        """As the cache would have them: a hit with the similarity that skips as much as was drawn."""
        reuse = self._scenario.population.reuse
        if not reuse.hit_rate or self._random.random() >= reuse.hit_rate:
            return ()
        skip = self._random.choice(list(reuse.skips), p=list(reuse.skips.values()))
        row = min(MODM_THRESHOLDS.rows, key=lambda each: abs(each.skip - skip))
        return (Match(0, row.similarity, "an earlier prompt", self._scenario.profile.heaviest.name, 0),)

    def _submit(self, job: Job, plan: Plan) -> None:
        job.plan = plan
        self._sent[plan.variant] += 1
        self._floor.enqueue(job)

    def _judge(self, job: Job, variant: str) -> None:
        """What the policy makes of an image."""
        assert job.plan
        decision, score = self._controller.decision, None
        if decision.policy.judges and job.plan.then is not None:
            score = float(self._scenario.population.confidence[variant][job.prompt])
            self._controller.saw_image(score)
        spare_s = None
        if self._scenario.rules.rescues:
            spare_s = job.due_s - self._clock.now_s
            spare_s -= held_up_s(self._floor.backlog_s()) if self._floor.steps else 0.0
        verdict = decision.policy.after(job.plan, score, spare_s)
        if isinstance(verdict, Escalate):
            self._submit(job, verdict.plan)
            return
        job.fallback |= isinstance(verdict, Accept) and verdict.fallback == Fallback.LATE
        self._settle(job)

    def _spare(self, job: Job, variant: str) -> None:
        """A job that would be late: its small image, a smaller variant, or nothing."""
        small, rescues = self._controller.decision.allocation.small, self._scenario.rules.rescues
        if rescues and job.painted:
            job.fallback = True
            self._settle(job)
        elif rescues and variant != small and self._floor.serves(small) and not self._floor.is_late(job, small):
            job.fallback, job.plan = True, Plan(small, Noise())
            self._clock.after(0.0, lambda: self._floor.enqueue(job))
        else:
            job.dropped = True
            self._settle(job)

    def _settle(self, job: Job) -> None:
        if not job.dropped:
            job.done_s = self._clock.now_s
        self._open, self._inside = self._open - 1, self._inside - 1
        self._tell(1)
