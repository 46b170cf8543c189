"""The front door: one image a request, from the request to a reply.

    validate → evidence → plan → paint → after → reply

Everything here runs on one event loop, so the state below needs no locks.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TypeVar

from underpaint import policies
from underpaint.deployment import Deployment, Sampling
from underpaint.errors import Cancelled, DeadlineExceeded, NotFound, Unavailable, UnderpaintError
from underpaint.evidence import Evidence
from underpaint.front_door.denoisers import Denoisers
from underpaint.front_door.outcome import Outcome, Reply, Timings
from underpaint.front_door.pipelines import Errand, Painting, paint
from underpaint.front_door.registry import Registry, Visit
from underpaint.front_door.transport import Transport
from underpaint.front_door.turnstile import Turnstile
from underpaint.policies import Escalate, Plan, Settings
from underpaint.requests import GenerateRequest

Answer = TypeVar("Answer")
_GRACE_S = 1.0


@dataclass(frozen=True)
class DoorLimits:
    """How many requests may be here, how many may call ensembles at once, and how long anything may take.

    Triton gives a Python process 32 threads for calls to other models unless told otherwise; what the ensembles leave
    of them is for cancellations, peeks and heartbeats.
    """

    capacity: int = 256
    concurrency: int = 24
    timeout_s: float = 120.0
    attend_every_s: float = 0.25
    heartbeat_every_s: float = 1.0
    heartbeats_missed: int = 2


class FrontDoor:
    """Serves requests by calling other models through a transport."""

    def __init__(self, deployment: Deployment, transport: Transport, limits: DoorLimits | None = None) -> None:
        self._deployment, self._transport = deployment, transport
        self._limits = limits or DoorLimits()
        self._settings = Settings(small=deployment.small, large=deployment.large)
        self._registry = Registry(self._limits.capacity)
        self._painters = Turnstile(self._limits.concurrency)
        self.denoisers = Denoisers(transport)

    async def serve(self, request: GenerateRequest, hung_up: Callable[[], bool] = lambda: False) -> Reply:
        """Serve one request. ``hung_up`` tells whether the caller has gone; it is asked now and then.

        Raises:
            UnderpaintError: with the status that the caller gets.
        """
        policy = self._validate(request)
        with self._registry.admit(_visit(request, hung_up)) as visit:
            evidence = Evidence(in_flight=len(self._registry), time_left_s=visit.time_left_s())
            plan = policy.plan(request, evidence, self._settings)
            while True:
                sampling = self._deployment.sampling(request, self._deployment.variant(plan.variant))
                request = replace(request, seed=sampling.seed)  # if it is painted again, then from the same noise
                painting = await self._attend(self._paint(plan, request, sampling, visit), visit)
                verdict = policy.after(plan, score=None, time_left_s=visit.time_left_s(), settings=self._settings)
                if not isinstance(verdict, Escalate):
                    break
                plan = verdict.plan
        return Reply(painting.image, self._report(request, policy.name, plan, sampling, painting, visit))

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

    def _validate(self, request: GenerateRequest) -> policies.Policy:
        """Check what can be known to be wrong before any work is done."""
        if request.variant is not None:
            self._deployment.sampling(request, self._deployment.variant(request.variant))
        return policies.by_name(request.policy or self._deployment.default_policy)

    # Running a plan ---------------------------------------------------------------------------------------------

    async def _paint(self, plan: Plan, request: GenerateRequest, sampling: Sampling, visit: Visit) -> Painting:
        """Wait for a place among those who paint, and paint."""
        async with self._painters.place(visit.due_ns):
            visit.paint_with(plan.variant)
            try:
                return await paint(self._transport, plan, request, sampling, self._errand(visit))
            finally:
                visit.variant = None

    async def _attend(self, work: Coroutine[None, None, Answer], visit: Visit) -> Answer:
        """Wait for ``work``, but no longer than the caller, the deadline and the denoiser last."""
        task = asyncio.ensure_future(work)
        try:
            while not task.done():
                await asyncio.wait({task}, timeout=self._limits.attend_every_s)
                if not task.done():
                    await self._check(visit)
        except BaseException:
            task.cancel()
            raise
        return task.result()

    async def _check(self, visit: Visit) -> None:
        """Raise if there is no point in waiting any longer."""
        left = visit.time_left_s()
        if visit.stranded:
            raise Unavailable(f"{visit.variant}_denoiser stopped answering and is being restarted; try again")
        if visit.cancelled() or (left is not None and left < -self._limits.attend_every_s):
            if visit.variant is not None:
                with suppress(UnderpaintError):  # the caller's own reason comes first
                    await self.denoisers.cancel(visit.variant, visit.request_id)
            if visit.cancelled():
                raise Cancelled(f"request {visit.request_id} was cancelled")
            raise DeadlineExceeded(f"deadline passed before {visit.variant or 'any variant'} was done")

    def _errand(self, visit: Visit) -> Errand:
        """Until when this may take. The denoiser is told, so that it does not paint on for nobody."""
        latest_ns = time.monotonic_ns() + int(self._limits.timeout_s * 1e9)
        deadline_ns = latest_ns if visit.deadline_ns is None else min(visit.deadline_ns, latest_ns)
        left_s = max(deadline_ns - time.monotonic_ns(), 0) / 1e9
        # The denoiser ends a request at its deadline by itself; the timeout is for the case that it cannot.
        return Errand(visit.request_id, visit.arrived_ns, deadline_ns, left_s + _GRACE_S)

    # Reporting --------------------------------------------------------------------------------------------------

    def _report(
        self,
        request: GenerateRequest,
        policy: str,
        plan: Plan,
        sampling: Sampling,
        painting: Painting,
        visit: Visit,
    ) -> Outcome:
        return Outcome(
            request_id=visit.request_id,
            prompt=request.prompt,
            negative_prompt=request.negative_prompt,
            policy=policy,
            variant=plan.variant,
            start=plan.start.name,
            seed=sampling.seed,
            scheduler=sampling.scheduler,
            num_inference_steps=sampling.num_inference_steps,
            steps_run=painting.steps_run,
            steps_skipped=sampling.num_inference_steps - painting.steps_run,
            guidance_scale=sampling.guidance_scale,
            width=sampling.width,
            height=sampling.height,
            timings_ms=_timings(painting, visit),
            warnings=self._warnings(plan, painting),
        )

    def _warnings(self, plan: Plan, painting: Painting) -> tuple[str, ...]:
        limit = self._deployment.variant(plan.variant).prompt_tokens
        counts = zip(("prompt", "negative_prompt"), painting.prompt_tokens, strict=True)
        return tuple(
            f"{name}: {count} tokens, of which {plan.variant} reads the first {limit}"
            for name, count in counts
            if count > limit
        )


def _visit(request: GenerateRequest, hung_up: Callable[[], bool]) -> Visit:
    arrived_ns = time.monotonic_ns()
    deadline_ns = None if request.deadline_ms is None else arrived_ns + request.deadline_ms * 1_000_000
    return Visit(request.request_id or uuid.uuid4().hex, arrived_ns, deadline_ns, hung_up)


def _timings(painting: Painting, visit: Visit) -> Timings:
    def ms(start_ns: int, end_ns: int) -> float:
        return round((end_ns - start_ns) / 1e6, 3)

    return Timings(
        admission=ms(visit.arrived_ns, painting.called_ns),
        encode=ms(painting.called_ns, painting.arrived_ns),
        queue=ms(painting.arrived_ns, painting.started_ns),
        denoise=ms(painting.started_ns, painting.finished_ns),
        decode=ms(painting.finished_ns, painting.painted_ns),
        total=ms(visit.arrived_ns, painting.painted_ns),
    )
