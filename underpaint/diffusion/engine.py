"""The denoiser's engine room: requests come in at any time, a few threads keep stacks of steps in flight.

A thread's turn is ``take`` (who), ``advance`` (one UNet call), ``give_back``. A UNet call that fails has moved nobody,
so it is tried again until the UNet is back or patience ends: a crash of the UNet costs time, not requests. If it is one
of the requests that makes the call impossible, halving the batch finds it, and it fails without the others.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from underpaint.diffusion.batcher import StepBatcher, Ticket
from underpaint.diffusion.denoiser import Denoiser, Trajectory
from underpaint.errors import (
    Cancelled,
    DeadlineExceeded,
    Internal,
    InvalidArgument,
    Unavailable,
    UnderpaintError,
    Unsupported,
)

# A cancellation may overtake the request that it is meant for; it is remembered for this long.
_WITHDRAWN_FOR_NS = 10_000_000_000
# A UNet that is being restarted is not hammered.
_PAUSE_AFTER_FAILURE_S = 0.2


@dataclass(frozen=True)
class Denoised:
    """The end of a trajectory, when it began and ended (monotonic nanoseconds), and for how long it was held because
    its LoRAs or ControlNets were still being loaded."""

    trajectory: Trajectory
    steps_run: int
    started_ns: int
    finished_ns: int
    held_ns: int = 0


@dataclass(frozen=True)
class Progress:
    """How far a request is. ``clean``: float32 [C, h, w], the present estimate of its latents, if there is one."""

    step: int
    num_inference_steps: int
    clean: np.ndarray | None


@dataclass(frozen=True)
class Activity:
    """What the engine has done since it started, and what it holds, for metrics."""

    running: int
    waiting: int
    steps: int
    unet_calls: int
    unet_rows: int
    retries: int


class _Defect(Internal):
    """An exception that the UNet contract does not know."""


# What fails like this fails again.
_LASTING = (InvalidArgument, Unsupported, _Defect)


@dataclass
class _Job:
    ticket: Ticket
    trajectory: Trajectory
    future: Future[Denoised] = field(default_factory=Future)
    first_step: int = 0
    started_ns: int | None = None
    failing_since_ns: int | None = None
    held_since_ns: int | None = None
    held_ns: int = 0


class Engine:
    """All active requests of one variant."""

    def __init__(
        self,
        denoiser: Denoiser,
        batcher: StepBatcher,
        stacks: int = 1,
        retry_for_s: float = 30.0,
        clock_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        """Start ``stacks`` threads. A request whose UNet calls keep failing for ``retry_for_s`` fails."""
        self._denoiser, self._batcher, self._clock_ns = denoiser, batcher, clock_ns
        self._retry_for_ns = int(retry_for_s * 1e9)
        self._jobs: dict[str, _Job] = {}
        self._withdrawn: dict[str, int] = {}
        self._steps = self._unet_calls = self._unet_rows = self._retries = 0
        self._changed = threading.Condition()
        self._closed = threading.Event()
        self._threads = [threading.Thread(target=self._work, name=f"stack-{i}", daemon=True) for i in range(stacks)]
        for thread in self._threads:
            thread.start()

    def submit(self, ticket: Ticket, trajectory: Trajectory) -> Future[Denoised]:
        """Hand over a request; the future ends with its latents or with an UnderpaintError.

        Raises:
            Unavailable, InvalidArgument: it is not admitted (see ``StepBatcher.add``).
            Cancelled: it was cancelled before it came.
        """
        job = _Job(ticket, trajectory, first_step=trajectory.step)
        with self._changed:
            if self._closed.is_set():
                raise Unavailable("the denoiser is shutting down")
            if self._withdrawn.pop(ticket.request_id, 0) > ticket.arrived_ns:
                raise Cancelled(f"request {ticket.request_id} was cancelled")
            self._batcher.add(ticket)
            self._jobs[ticket.request_id] = job
            if trajectory.held:
                self._hold(job)
            self._changed.notify()
        if trajectory.joining is not None:
            trajectory.joining.adaptation.add_done_callback(partial(self._loaded, job))
        if trajectory.controlling is not None:
            trajectory.controlling.loaded.add_done_callback(partial(self._loaded, job))
        return job.future

    def cancel(self, request_id: str) -> bool:
        """Withdraw a request: it leaves now and takes no further step. False if it is not (or not yet) here."""
        with self._changed:
            job = self._leave(request_id)
            if job is None:
                self._remember_withdrawal(request_id)
        if job is None:
            return False
        job.future.set_exception(Cancelled(f"request {request_id} was cancelled at step {job.trajectory.step}"))
        return True

    def peek(self, request_id: str) -> Progress | None:
        """How far a request is, or None if it is not here."""
        with self._changed:
            job = self._jobs.get(request_id)
            if job is None:
                return None
            return Progress(job.trajectory.step, len(job.trajectory.schedule), job.trajectory.clean)

    def activity(self) -> Activity:
        with self._changed:
            running = len(self._batcher) - self._batcher.waiting
            return Activity(
                running, self._batcher.waiting, self._steps, self._unet_calls, self._unet_rows, self._retries
            )

    def close(self) -> None:
        """Fail what is left and stop the threads, but for one that waits for a UNet that does not answer."""
        with self._changed:
            self._closed.set()
            jobs = [self._leave(request_id) for request_id in list(self._jobs)]
            self._changed.notify_all()
        for job in jobs:
            if job is not None:
                job.future.set_exception(Unavailable("the denoiser was shut down"))
        for thread in self._threads:
            thread.join(timeout=1.0)

    # One turn -------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        while not self._closed.is_set():
            batch, calls = self._next_batch()
            if batch:
                self._turn(batch, calls)

    def _next_batch(self) -> tuple[list[_Job], int]:
        with self._changed:
            self._changed.wait_for(lambda: self._closed.is_set() or self._batcher.waiting)
            late = [self._leave(ticket.request_id) for ticket in self._batcher.expired(self._clock_ns())]
            tickets = self._batcher.take()
            calls = self._batcher.calls_for(tickets)
            batch = [self._jobs[ticket.request_id] for ticket in tickets]
            if self._batcher.waiting:
                self._changed.notify()
        for job in late:
            if job is not None:
                job.future.set_exception(_too_late(job))
        return batch, calls

    def _turn(self, batch: list[_Job], calls: int = 1) -> None:
        failure = self._advance(batch, calls)
        if isinstance(failure, _LASTING) and len(batch) > 1:
            middle = len(batch) // 2
            self._turn(batch[:middle])
            self._turn(batch[middle:])
            return
        leaving = self._after_turn(batch, calls, failure)
        for job in leaving:
            self._finish(job, failure)
        if failure is not None and not isinstance(failure, _LASTING):
            self._closed.wait(_PAUSE_AFTER_FAILURE_S)

    def _advance(self, batch: list[_Job], calls: int) -> UnderpaintError | None:
        """Make the step; returns why it could not be made."""
        now = self._clock_ns()
        for job in batch:
            job.started_ns = job.started_ns or now
        try:
            self._denoiser.advance([job.trajectory for job in batch], calls)
        except UnderpaintError as error:
            return error
        except Exception as error:  # must not take the thread, and with it every request, down
            return _Defect(f"{type(error).__name__}: {error}")
        return None

    def _after_turn(self, batch: list[_Job], calls: int, failure: UnderpaintError | None) -> list[_Job]:
        """Book the turn; take out of the engine, and return, the jobs that end here."""
        now = self._clock_ns()
        with self._changed:
            self._count(batch, calls, failure)
            for job in batch:
                job.failing_since_ns = None if failure is None else (job.failing_since_ns or now)
            # A job cancelled during the call is gone already, and has its answer.
            present = [job for job in batch if self._jobs.get(job.ticket.request_id) is job]
            leaving = [job for job in present if job.trajectory.done or self._gave_up(job, failure, now)]
            for job in leaving:
                self._leave(job.ticket.request_id)
            self._batcher.give_back(job.ticket for job in present)
            for job in present:
                if job.trajectory.held:  # what it waits for may come at any time, but not before this lock is free
                    self._hold(job)
            if failure is not None:  # this thread pauses; without a failure it is back at once, and wakes others
                self._changed.notify()
        return leaving

    def _count(self, batch: list[_Job], calls: int, failure: UnderpaintError | None) -> None:
        if failure is not None:
            self._retries += 1
            return
        self._steps += len(batch)
        self._unet_calls += calls
        self._unet_rows += sum(job.ticket.rows for job in batch)

    def _gave_up(self, job: _Job, failure: UnderpaintError | None, now_ns: int) -> bool:
        if failure is None or job.failing_since_ns is None:
            return False
        return isinstance(failure, _LASTING) or now_ns - job.failing_since_ns > self._retry_for_ns

    def _finish(self, job: _Job, failure: UnderpaintError | None) -> None:
        trajectory = job.trajectory
        if not trajectory.done and failure is not None:
            job.future.set_exception(failure)
        elif not np.isfinite(trajectory.sample).all():
            job.future.set_exception(Internal("the model produced values that are not finite"))
        else:
            steps_run = len(trajectory.schedule) - job.first_step
            started_ns, finished_ns = job.started_ns or 0, self._clock_ns()
            job.future.set_result(Denoised(trajectory, steps_run, started_ns, finished_ns, job.held_ns))

    def _loaded(self, job: _Job, loading: Future[Any]) -> None:
        """A request's LoRAs or ControlNets are there, or never will be, which ends it."""
        failure = loading.exception()
        with self._changed:
            if self._jobs.get(job.ticket.request_id) is not job:
                return
            if failure is not None:
                self._leave(job.ticket.request_id)
            if not job.trajectory.held:
                self._release(job)
            self._changed.notify()
        if failure is not None:
            job.future.set_exception(failure)

    # Bookkeeping, under the lock ------------------------------------------------------------------------------

    def _hold(self, job: _Job) -> None:
        self._batcher.hold(job.ticket.request_id)
        job.held_since_ns = self._clock_ns()

    def _release(self, job: _Job) -> None:
        self._batcher.release(job.ticket.request_id)
        if job.held_since_ns is not None:
            job.held_ns += self._clock_ns() - job.held_since_ns
            job.held_since_ns = None

    def _leave(self, request_id: str) -> _Job | None:
        self._batcher.discard(request_id)
        return self._jobs.pop(request_id, None)

    def _remember_withdrawal(self, request_id: str) -> None:
        """For a request that was sent before now and has not come yet; a later one of the same id is another."""
        now = self._clock_ns()
        self._withdrawn = {name: at for name, at in self._withdrawn.items() if now - at < _WITHDRAWN_FOR_NS}
        self._withdrawn[request_id] = now


def _too_late(job: _Job) -> DeadlineExceeded:
    trajectory = job.trajectory
    return DeadlineExceeded(f"deadline passed at step {trajectory.step} of {len(trajectory.schedule)}")
