"""The front door: one image a request, from the request to a reply, and what is remembered of it.

    validate → evidence → plan → prepare → paint → after → reply → remember

Everything here runs on one event loop, so the state below needs no locks.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from underpaint import policies
from underpaint.deployment import Deployment, Sampling, draw_seed
from underpaint.errors import (
    Cancelled,
    DeadlineExceeded,
    InvalidArgument,
    NotFound,
    Overloaded,
    Unavailable,
    UnderpaintError,
    Unsupported,
)
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
from underpaint.front_door.pulse import Pulse
from underpaint.front_door.reading import Readers
from underpaint.front_door.registry import Registry, Visit
from underpaint.front_door.reply import Reply, reply_to, scopes_of
from underpaint.front_door.scopes import Hashes
from underpaint.front_door.scoring import Scoring
from underpaint.front_door.shadow import Shadow
from underpaint.front_door.sources import SourceLost, Sources
from underpaint.front_door.tally import Tally
from underpaint.front_door.traffic import Release, Traffic
from underpaint.front_door.transport import Transport
from underpaint.front_door.trial import Exhibit, Trial
from underpaint.front_door.turnstile import Turnstile
from underpaint.front_door.underway import Underway
from underpaint.front_door.workload import Work, Workload
from underpaint.policies import CachedImage, Escalate, Finished, Noise, Plan, Policy, Settings
from underpaint.policies.admission import Admitted, Room, admit, held_up_s
from underpaint.requests import GenerateRequest

_log = logging.getLogger(__name__)
_FINAL = (Cancelled, DeadlineExceeded, Overloaded)  # trying another way would not help


@dataclass(frozen=True)
class DoorLimits:
    """How many requests may be here, how many may call ensembles at once, and how long anything may take.

    Triton gives a Python process 32 threads for calls to other models unless told otherwise; what the ensembles leave
    of them is for embedders and cache, cancellations, peeks and heartbeats.
    """

    capacity: int = 256
    concurrency: int = 24
    timeout_s: float = 120.0
    attend_every_s: float = 0.5
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
        readers: Readers,
        limits: DoorLimits | None = None,
        settings: Settings | None = None,
        log: Callable[[str], None] = _log.warning,
        hashes: Hashes | None = None,
    ) -> None:
        """Without ``settings`` nothing is calibrated. ``log`` gets a line now and then when something is wrong.
        ``hashes``: of the add-ons' files."""
        self._traffic, self._transport = Traffic(Release(deployment, settings or Settings.of(deployment))), transport
        self._limits = limits or DoorLimits()
        self._registry = Registry(self._limits.capacity)
        self._painters = Turnstile(self._limits.concurrency)
        self._workload = Workload()
        self.denoisers = Denoisers(transport)
        self._pulse = Pulse(
            self.denoisers, self._registry, self._limits.heartbeat_every_s, self._limits.heartbeats_missed
        )
        self.tally = Tally()
        self._attendant = Attendant(self.denoisers, self._limits.timeout_s, self._limits.attend_every_s)
        self._costs, complaints, patience = Costs(), Complaints(log), self._limits.patience
        embedders, cache = Embedders(transport, readers.embedder), CacheClient(transport)
        self._underway = Underway(self._limits.timeout_s)
        foresight = Foresight(self.tally)
        self._scoring = Scoring(transport, readers.scorers, self.tally, complaints, patience.score_s)
        self._gatherer = Gatherer(
            embedders, foresight, cache, self._costs, patience, complaints, self._scoring, self._underway, hashes
        )
        self._sources = Sources(cache, self._costs, patience, complaints)
        self._memory = Memory(self._scoring, embedders, cache, self.tally, complaints, self._underway)
        self._shadow = Shadow(self._image_of, embedders, self.tally, complaints)
        self._trial = Trial(self.tally, self._scoring if deployment.discriminator else None, complaints)

    async def serve(self, request: GenerateRequest, hung_up: Callable[[], bool] = lambda: False) -> Reply:
        """Serve one request. ``hung_up`` tells whether the caller has gone; it is asked now and then.

        Raises:
            UnderpaintError: with the status that the caller gets.
        """
        traffic = self._traffic
        policy = self._validate(request, traffic.stable)
        self.tally.arrivals[policy.name,] += 1
        # A seed of its own from the beginning: whatever is painted again starts from the same noise.
        request = request if request.seed is not None else replace(request, seed=draw_seed())
        with self._registry.admit(_visit(request, hung_up, traffic.stable.settings)) as visit:
            reply = await self._serve_by_one_of(traffic, policy, request, visit)
        self.tally.count(reply.outcome)
        return reply

    def remember(self, reply: Reply) -> None:
        """To be called once the reply has been sent: what is worth it goes into the cache, in the background."""
        if reply.keepsake is not None:
            self._memory.remember(reply.keepsake)
        else:
            self._underway.end(reply.outcome.request_id)
        if reply.exhibit is not None:
            self._trial.exhibit(reply.exhibit)
        if reply.hit is not None and random.random() < self._traffic.stable.settings.shadow_share:
            self._shadow.cast(reply.hit)

    async def _image_of(self, request: GenerateRequest) -> np.ndarray:
        return (await self.serve(request)).image

    async def drain(self, within_s: float) -> None:
        """Wait until all that is to be remembered is, before the door closes."""
        await self._memory.drain(within_s)

    def adopt(self, traffic: Traffic) -> None:
        """From the next request on."""
        self._traffic = traffic

    async def cancel(self, request_id: str) -> None:
        """Withdraw a request by its id, wherever it is.

        Raises:
            NotFound: nobody knows a request of that name.
        """
        visit = self._registry.withdraw(request_id)
        # A request of ours is with one denoiser or none; one that came another way may be with any.
        anyone = [painter for release in self._traffic.releases for painter in release.painters]
        asked = anyone if visit is None else [v for v in (visit.variant,) if v]
        dropped = await asyncio.gather(*(self.denoisers.cancel(v, request_id) for v in asked), return_exceptions=True)
        if visit is None and True not in dropped:
            raise NotFound(f"request_id: no request {request_id!r} is being served")

    async def watch(self) -> None:
        """Look after those whose denoiser dies; runs for as long as the door is open."""
        await self._pulse.feel()

    @property
    def in_flight(self) -> int:
        return len(self._registry)

    @property
    def traffic(self) -> Traffic:
        return self._traffic

    def in_flight_by_release(self) -> dict[str, int]:
        """How many requests each release serves, by its suffix (``traffic.Release``)."""
        return dict(self._registry.by_suffix())

    def variant_of(self, request_id: str) -> str | None:
        """The variant that works on a request at the moment, if any does (``Job.painter``)."""
        return self._registry.variant_of(request_id)

    async def preview(self, variant: str, request_id: str, latents: np.ndarray) -> np.ndarray:
        """Latents of a request, float32 [1, C, h, w], as pixels, uint8 [H, W, 3]."""
        return await self.denoisers.preview(variant, latents, self._registry.version_of(request_id))

    # The stages -------------------------------------------------------------------------------------------------

    def _validate(self, request: GenerateRequest, release: Release) -> Policy:
        """Check what can be known to be wrong before any work is done."""
        deployment = release.deployment
        if request.variant is not None:
            deployment.sampling(request, deployment.variant(request.variant))
        policy = policies.by_name(request.policy or release.settings.policy)
        if policy.judges and deployment.discriminator is None:
            raise Unsupported(f"policy {policy.name}: the deployment has no discriminator")
        return policy

    async def _serve_by_one_of(self, traffic: Traffic, policy: Policy, request: GenerateRequest, visit: Visit) -> Reply:
        """By the version that the request's seed leads to; what one on trial cannot do, the family's own does."""
        release = traffic.release_of(request)
        try:
            reply = await self._serve_by(release, policy, request, visit)
        except _FINAL:
            raise
        except UnderpaintError as failure:
            if release is traffic.stable:
                if not isinstance(failure, InvalidArgument):
                    self._trial.failed(traffic, release, failure)
                raise
            reply = await self._serve_by(traffic.stable, policy, request, visit)
            self._trial.failed(traffic, release, failure)  # its own failure, since the other one did it
            return reply
        labels = self._trial.count(traffic, release, reply.outcome)
        return replace(reply, exhibit=Exhibit(labels, request.prompt, reply.image)) if labels else reply

    async def _serve_by(self, release: Release, policy: Policy, request: GenerateRequest, visit: Visit) -> Reply:
        settings = release.settings
        visit.begin_with(release.version, release.suffix)
        gathering = self._gatherer.gather(policy, request, release, visit, in_flight=len(self._registry))
        evidence = await self._attendant.attend(gathering, visit)
        admitted, cascade = self._plan(policy, request, evidence, settings, visit), Cascade()
        plan = admitted.plan
        while True:
            try:
                carrying_out = self._carry_out(plan, policy, admitted.request, evidence, release, visit)
                job, painting = await self._attendant.attend(carrying_out, visit)
            except SourceLost as lost:  # a request can always do without
                evidence = evidence.without_matches(lost.absence)
                admitted = self._plan(policy, request, evidence, settings, visit)
                plan = admitted.plan
                continue
            except Unavailable as failure:
                job, painting = cascade.give_up(failure, visit)
                break
            if plan.then is not None:
                judging = self._scoring.judge(request, painting, visit)
                cascade.confidence = await self._attendant.attend(judging, visit)
            left_s = None if request.reproducible else visit.promise_left_s()
            spare_s = None if left_s is None else left_s - held_up_s(self._workload.backlog_s())
            verdict = policy.after(plan, cascade.confidence, spare_s)
            if not isinstance(verdict, Escalate):
                cascade.fallback = verdict.fallback
                break
            plan = cascade.escalate(verdict.plan, job, painting, visit)
        return reply_to(visit, policy, evidence, job, painting, release, cascade, admitted.downgrade)

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
        self, plan: Plan, policy: Policy, request: GenerateRequest, evidence: Evidence, release: Release, visit: Visit
    ) -> tuple[Job, Painting]:
        """Raises SourceLost."""
        with self._workload.job(plan.variant, release.settings.to_run(request, plan)) as work:
            job = await self._prepare(policy, plan, request, release, visit)
            if job.keep is not None and evidence.embedding is not None:
                scopes = scopes_of(job, evidence, release.deployment)
                self._underway.begin(visit.request_id, tuple(scopes.values()), evidence.embedding)
            try:
                return job, await self._paint(job, visit, work)
            except BaseException:
                self._underway.end(visit.request_id)
                raise

    async def _prepare(
        self, policy: Policy, plan: Plan, request: GenerateRequest, release: Release, visit: Visit
    ) -> Job:
        """Fill in what the plan leaves open, and fetch what it starts from. Raises SourceLost."""
        sampling = self._sampling(plan, request, release)
        autoencoder = release.deployment.variant(plan.variant).autoencoder
        source = await self._sources.fetch(plan, sampling, autoencoder, visit)
        remembers = request.writes_cache and release.deployment.embedder
        keep = policy.keep(request, plan, release.settings) if remembers else None
        return Job(plan, request, sampling, source, keep, release.suffix)

    async def _paint(self, job: Job, visit: Visit, work: Work) -> Painting:
        """Wait for a place among those who paint, and paint. Raises SourceLost."""
        if isinstance(job.plan.start, Finished) and job.source is not None:
            return Painting.finished(job.source)
        async with self._painters.place(visit.due_ns):
            visit.paint_with(job.painter)
            try:
                with self._workload.running(work):
                    errand = self._attendant.errand(visit, self._registry.company_of(visit))
                    painting = await paint(self._transport, job, errand)
            except UnderpaintError as refused:
                absence = _lost_by(refused, job)
                if absence is None:
                    raise
                raise SourceLost(absence) from refused
            finally:
                visit.variant = None
        if painting.step_ms is not None:
            variant = job.plan.variant
            self._costs.step(variant, painting.step_ms, self._workload.work_s(variant, 1))
        return painting

    def _sampling(self, plan: Plan, request: GenerateRequest, release: Release) -> Sampling:
        """How the plan's variant samples the request. Raises SourceLost where it cannot, but another one could."""
        deployment = release.deployment
        variant = deployment.variant(plan.variant)
        if plan.start == Noise():
            return deployment.sampling(request, variant)
        # What was found was looked up in the size that the request has with the variant of its miss.
        size_of = deployment.variant(request.variant or release.settings.large)
        try:
            sized = deployment.sampling(request, size_of)
            fitting = replace(request, width=sized.width, height=sized.height)
            return deployment.sampling(fitting, variant, refining=isinstance(plan.start, CachedImage))
        except InvalidArgument as unfit:
            raise SourceLost(Absence(Miss.UNFIT)) from unfit


def _lost_by(refused: UnderpaintError, job: Job) -> Absence | None:
    """What it means for what saves work that a model refused it; None where it could not be done either way."""
    if job.plan.start == Noise() or isinstance(refused, _FINAL):
        return None
    if job.request.loras or job.source is None:  # a LoRA is for one variant, and so is what may be wrong with another
        return Absence(Miss.UNFIT)
    return Absence(Miss.BROKEN, str(refused)) if isinstance(refused, InvalidArgument) else None


def _visit(request: GenerateRequest, hung_up: Callable[[], bool], settings: Settings) -> Visit:
    arrived_ns = time.monotonic_ns()
    deadline_ns = None if request.deadline_ms is None else arrived_ns + request.deadline_ms * 1_000_000
    slo_ms = request.slo_ms or settings.slo_ms
    promise_ns = None if slo_ms is None else arrived_ns + slo_ms * 1_000_000
    return Visit(request.request_id or uuid.uuid4().hex, arrived_ns, deadline_ns, hung_up, promise_ns)
