"""The front door: one image a request, from the request to a reply, and what is remembered of it.

    validate → evidence → plan → prepare → paint → after → reply → remember

Everything here runs on one event loop, so the state below needs no locks.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from underpaint import policies
from underpaint.deployment import Deployment, Sampling, draw_seed
from underpaint.errors import InvalidArgument, NotFound, Overloaded, Unavailable, Unsupported
from underpaint.evidence import Absence, Evidence, Miss
from underpaint.front_door.attendance import Attendant
from underpaint.front_door.cache_client import CacheClient
from underpaint.front_door.cascade import Cascade
from underpaint.front_door.complaints import Complaints
from underpaint.front_door.costs import Costs
from underpaint.front_door.denoisers import Denoisers
from underpaint.front_door.embedders import Embedders
from underpaint.front_door.foresight import Foresight
from underpaint.front_door.gathering import Gatherer, Patience
from underpaint.front_door.memory import Memory
from underpaint.front_door.pipelines import Job, Painting, paint
from underpaint.front_door.registry import Registry, Visit
from underpaint.front_door.reply import Reply, reply_to
from underpaint.front_door.scoring import Scoring
from underpaint.front_door.sources import SourceLost, Sources
from underpaint.front_door.tally import Tally
from underpaint.front_door.transport import Transport
from underpaint.front_door.turnstile import Turnstile
from underpaint.front_door.workload import Work, Workload
from underpaint.policies import CachedImage, Escalate, Finished, Noise, Plan, Policy, Settings
from underpaint.policies.admission import Admitted, Room, admit
from underpaint.requests import GenerateRequest

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DoorLimits:
    """How many requests may be here, how many may call ensembles at once, and how long anything may take.

    Triton gives a Python process 32 threads for calls to other models unless told otherwise; what the ensembles leave
    of them is for embedders and cache, cancellations, peeks and heartbeats.
    """

    capacity: int = 256
    concurrency: int = 24
    timeout_s: float = 120.0
    attend_every_s: float = 0.25
    heartbeat_every_s: float = 1.0
    heartbeats_missed: int = 2
    patience: Patience = field(default_factory=Patience)


class FrontDoor:
    """Serves requests by calling other models through a transport.

    Attributes:
        denoisers: for those who want to see a request's progress.
        tally: what has been done so far.
    """

    def __init__(
        self,
        deployment: Deployment,
        transport: Transport,
        limits: DoorLimits | None = None,
        settings: Settings | None = None,
        log: Callable[[str], None] = _log.warning,
    ) -> None:
        """Without ``settings`` nothing is calibrated. ``log`` gets a line now and then when something is wrong."""
        self._deployment, self._transport = deployment, transport
        self._limits = limits or DoorLimits()
        self._settings = settings or Settings.of(deployment)
        self._registry = Registry(self._limits.capacity)
        self._painters = Turnstile(self._limits.concurrency)
        self._workload = Workload()
        self.denoisers = Denoisers(transport)
        self.tally = Tally()
        self._attendant = Attendant(self.denoisers, self._limits.timeout_s, self._limits.attend_every_s)
        self._costs, complaints, patience = Costs(), Complaints(log), self._limits.patience
        embedders, cache = Embedders(transport, deployment.family), CacheClient(transport)
        foresight = Foresight(self.tally)
        self._scoring = Scoring(transport, deployment.family, self.tally, complaints, patience.score_s)
        self._gatherer = Gatherer(
            deployment, embedders, foresight, cache, self._costs, patience, complaints, self._scoring
        )
        self._sources = Sources(cache, self._costs, patience, complaints)
        self._memory = Memory(embedders, cache, self.tally, complaints)

    async def serve(self, request: GenerateRequest, hung_up: Callable[[], bool] = lambda: False) -> Reply:
        """Serve one request. ``hung_up`` tells whether the caller has gone; it is asked now and then.

        Raises:
            UnderpaintError: with the status that the caller gets.
        """
        policy, settings = self._validate(request), self._settings
        self.tally.arrivals[policy.name,] += 1
        # A seed of its own from the beginning: whatever is painted again starts from the same noise.
        request = replace(request, seed=draw_seed() if request.seed is None else request.seed)
        with self._registry.admit(_visit(request, hung_up)) as visit:
            gathering = self._gatherer.gather(policy, request, settings, visit, in_flight=len(self._registry))
            evidence = await self._attendant.attend(gathering, visit)
            admitted, cascade = self._plan(policy, request, evidence, settings, visit), Cascade()
            plan = admitted.plan
            while True:
                try:
                    job, painting = await self._carry_out(plan, policy, admitted.request, settings, visit)
                except SourceLost as lost:  # a request can always do without
                    evidence = evidence.without_matches(lost.absence)
                    admitted = self._plan(policy, request, evidence, settings, visit)
                    plan = admitted.plan
                    continue
                except Unavailable as failure:
                    job, painting = cascade.give_up(failure, visit)
                    break
                if policy.judges and plan.then is not None:
                    judging = self._scoring.judge(request, painting, visit)
                    cascade.confidence = await self._attendant.attend(judging, visit)
                time_left_s = None if request.reproducible else visit.promise_left_s()
                verdict = policy.after(plan, cascade.confidence, time_left_s, settings)
                if not isinstance(verdict, Escalate):
                    cascade.fallback = verdict.fallback
                    break
                plan = cascade.escalate(verdict.plan, job, painting, visit)
        reply = reply_to(visit, policy, evidence, job, painting, self._deployment, cascade, admitted.downgrade)
        self.tally.count(reply.outcome)
        return reply

    def remember(self, reply: Reply) -> None:
        """To be called once the reply has been sent: what is worth it goes into the cache, in the background."""
        if reply.keepsake is not None:
            self._memory.remember(reply.keepsake)

    async def drain(self, within_s: float) -> None:
        """Wait until all that is to be remembered is, before the door closes."""
        await self._memory.drain(within_s)

    def adopt(self, settings: Settings) -> None:
        """From the next request on."""
        self._settings = settings

    async def cancel(self, request_id: str) -> None:
        """Withdraw a request by its id, wherever it is.

        Raises:
            NotFound: nobody knows a request of that name.
        """
        visit = self._registry.withdraw(request_id)
        # A request of ours is with one denoiser or none; one that came another way may be with any.
        asked = list(self._deployment.variants) if visit is None else [v for v in (visit.variant,) if v]
        dropped = await asyncio.gather(*(self.denoisers.cancel(v, request_id) for v in asked), return_exceptions=True)
        if visit is None and True not in dropped:
            raise NotFound(f"request_id: no request {request_id!r} is being served")

    async def watch(self) -> None:
        """Feel the pulse of every denoiser that owes an answer; runs for as long as the door is open.

        A denoiser that is dead does not answer. One that has been replaced answers, but knows nothing of what its
        predecessor was sent.
        """
        missed: dict[str, int] = {}
        while True:
            await asyncio.sleep(self._limits.heartbeat_every_s)
            at_work = self._registry.variants_at_work()
            missed = {variant: missed.get(variant, 0) for variant in at_work}
            pulses = await asyncio.gather(*(self.denoisers.alive_since(variant) for variant in at_work))
            for variant, alive_since_ns in zip(at_work, pulses, strict=True):
                missed[variant] = missed[variant] + 1 if alive_since_ns is None else 0
                if alive_since_ns is not None:
                    self._registry.strand(variant, before_ns=alive_since_ns)
                elif missed[variant] >= self._limits.heartbeats_missed:
                    self._registry.strand(variant, before_ns=time.monotonic_ns())

    @property
    def in_flight(self) -> int:
        return len(self._registry)

    def variant_of(self, request_id: str) -> str | None:
        """The variant that works on a request at the moment, if any does."""
        return self._registry.variant_of(request_id)

    # The stages -------------------------------------------------------------------------------------------------

    def _validate(self, request: GenerateRequest) -> Policy:
        """Check what can be known to be wrong before any work is done."""
        if request.variant is not None:
            self._deployment.sampling(request, self._deployment.variant(request.variant))
        policy = policies.by_name(request.policy or self._settings.policy)
        if policy.judges and self._deployment.discriminator is None:
            raise Unsupported(f"policy {policy.name}: the deployment has no discriminator")
        return policy

    def _plan(
        self, policy: Policy, request: GenerateRequest, evidence: Evidence, settings: Settings, visit: Visit
    ) -> Admitted:
        """What ``policy`` wants, or what can be done of it in time. Raises Overloaded."""
        plan = policy.plan(request, evidence, settings)
        room = Room(self._workload.backlog_s(), visit.waited_s(), self._workload.work_s)
        try:
            return admit(policy, plan, request, evidence, settings, room)
        except Overloaded:
            self.tally.refusals[request.service_class,] += 1
            raise

    async def _carry_out(
        self, plan: Plan, policy: Policy, request: GenerateRequest, settings: Settings, visit: Visit
    ) -> tuple[Job, Painting]:
        """Raises SourceLost."""
        with self._workload.job(plan.variant, settings.to_run(request, plan)) as work:
            job = await self._attendant.attend(self._prepare(policy, plan, request, settings, visit), visit)
            return job, await self._attendant.attend(self._paint(job, visit, work), visit)

    async def _prepare(
        self, policy: Policy, plan: Plan, request: GenerateRequest, settings: Settings, visit: Visit
    ) -> Job:
        """Fill in what the plan leaves open, and fetch what it starts from. Raises SourceLost."""
        sampling = self._sampling(plan, request, settings)
        source = await self._sources.fetch(plan, sampling, visit)
        remembers = request.writes_cache and self._deployment.embedder
        return Job(plan, request, sampling, source, policy.keep(request, plan, settings) if remembers else None)

    async def _paint(self, job: Job, visit: Visit, work: Work) -> Painting:
        """Wait for a place among those who paint, and paint. Raises SourceLost."""
        if isinstance(job.plan.start, Finished) and job.source is not None:
            return Painting.finished(job.source)
        async with self._painters.place(visit.due_ns):
            visit.paint_with(job.plan.variant)
            try:
                with self._workload.running(work):
                    painting = await paint(self._transport, job, self._attendant.errand(visit))
            except InvalidArgument as refused:
                if job.source is None:
                    raise
                raise SourceLost(Absence(Miss.BROKEN, str(refused))) from refused
            finally:
                visit.variant = None
        if painting.step_ms is not None:
            self._costs.step(job.plan.variant, painting.step_ms, painting.around_ms)
        return painting

    def _sampling(self, plan: Plan, request: GenerateRequest, settings: Settings) -> Sampling:
        """How the plan's variant samples the request. Raises SourceLost where it cannot, but another one could."""
        variant = self._deployment.variant(plan.variant)
        if isinstance(plan.start, Noise):
            return self._deployment.sampling(request, variant)
        # What is reused was looked up in the size that the request has with the variant of its miss.
        size_of = self._deployment.variant(request.variant or settings.large)
        try:
            sized = self._deployment.sampling(request, size_of)
            fitting = replace(request, width=sized.width, height=sized.height)
            return self._deployment.sampling(fitting, variant, refining=isinstance(plan.start, CachedImage))
        except InvalidArgument as unfit:
            raise SourceLost(Absence(Miss.UNFIT)) from unfit


def _visit(request: GenerateRequest, hung_up: Callable[[], bool]) -> Visit:
    arrived_ns = time.monotonic_ns()
    deadline_ns = None if request.deadline_ms is None else arrived_ns + request.deadline_ms * 1_000_000
    promise_ns = None if request.slo_ms is None else arrived_ns + request.slo_ms * 1_000_000
    return Visit(request.request_id or uuid.uuid4().hex, arrived_ns, deadline_ns, hung_up, promise_ns)
