"""The loop: once a period, from metrics to settings. Nothing that goes wrong in a period ends it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from underpaint.control.allocation import Allocation, Allocator, Fleet
from underpaint.control.demand import OURS, Demand, Smoothing
from underpaint.control.profile import Profile
from underpaint.errors import InvalidArgument, Unavailable
from underpaint.monitor.decision import settings_of
from underpaint.monitor.instances import Instances
from underpaint.monitor.journal import Decision, Journal, State
from underpaint.monitor.metrics import Endpoint, Sample
from underpaint.monitor.readings import Reading
from underpaint.monitor.scores import Scores
from underpaint.monitor.settings import SettingsFile

log = logging.getLogger("underpaint.monitor")

STATE = "monitor.json"
_PATIENCE = 0.5  # of a period, for metrics


@dataclass(eq=False)
class Server:
    """One tritonserver. ``instances``: None where its variants share their devices, so that there is none to move."""

    endpoint: Endpoint
    instances: Instances | None = None
    seen: Sample | None = field(default=None, init=False)

    def grown(self, within_s: float) -> tuple[Sample, Sample] | None:
        """What it shows now and what has grown since the last time; None the first time, which is only for comparison.

        Raises:
            Unavailable: it does not answer. What happened meanwhile counts when it answers again.
        """
        now = self.endpoint.fetch(within_s)
        before, self.seen = self.seen, now
        return None if before is None else (now, now.since(before))


@dataclass(frozen=True)
class Plan:
    """What a monitor goes by."""

    allocator: Allocator
    profile: Profile
    fleet: Fleet
    smoothing: Smoothing = OURS
    dry_run: bool = False


class Monitor:
    """One of them decides for a set of servers whose settings lie in ``stores``; its state lies in the first."""

    def __init__(
        self,
        servers: Sequence[Server],
        stores: Sequence[Path],
        plan: Plan,
        journal: Journal,
        tell: Callable[[Decision], None] = lambda decision: None,
    ) -> None:
        """``tell`` hears of every decision, for metrics of the monitor's own."""
        self._servers, self._plan, self._journal, self._tell = servers, plan, journal, tell
        self._settings = [SettingsFile(store) for store in stores]
        self._state_file = stores[0] / STATE
        self._demand, self._scores = Demand(plan.smoothing), Scores()
        self._present = self._resume()
        self._pool = ThreadPoolExecutor(max_workers=max(1, len(servers)), thread_name_prefix="monitor")

    def _resume(self) -> Allocation | None:
        """Go on from where the last monitor was, if that still makes sense."""
        state = State.load(self._state_file)
        known = {each.name for each in self._plan.profile.variants}
        if state is None or not {state.allocation.small, state.allocation.large} <= known:
            return None
        try:
            self._scores.restore(dict(state.scores))
        except (InvalidArgument, KeyError, TypeError, ValueError):
            self._scores = Scores()
        return state.allocation

    def run(self, stop: threading.Event) -> None:
        """Decide once a period until told to stop. Periods are monotonic time: clocks may step as they like."""
        due = time.monotonic()
        while not stop.wait(max(0.0, due - time.monotonic())):
            due = max(due + self._plan.fleet.period_s, time.monotonic())
            try:
                self.step()
            except Exception:  # serving goes on with the last settings, and so does the monitor
                log.exception("this period is lost to a defect")

    def step(self) -> Decision | None:
        """One period. None as long as no server has been seen twice."""
        readings, silent = self._read()
        if not readings:
            for reason in silent:
                log.warning("%s", reason)
            return None
        reading = Reading.together(readings)
        self._demand.count(reading.arrivals, reading.seconds)
        load = reading.load(self._demand.per_s)
        allocation = self._plan.allocator.allocate(load, self._plan.profile, self._plan.fleet, self._present)
        settings = settings_of(allocation, self._scores, self._plan.fleet.slo_s)
        changed, applied, problems = self._apply(allocation, settings)
        decision = Decision(
            at=datetime.now(UTC).isoformat(timespec="milliseconds"),
            arrivals_per_s=round(load.arrivals_per_s, 4),
            counted=reading.arrivals,
            servers=len(readings),
            allocation=allocation,
            settings=settings,
            changed=changed,
            applied=applied,
            silent=tuple(silent),
            problems=tuple(problems),
            waiting=reading.waiting,
        )
        self._note(decision)
        return decision

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
        for server in self._servers:
            server.endpoint.close()

    def _read(self) -> tuple[list[Reading], list[str]]:
        """Of every server that answers in time; why the others did not."""
        within_s = _PATIENCE * self._plan.fleet.period_s
        asked = [self._pool.submit(server.grown, within_s) for server in self._servers]
        readings, silent = [], []
        for each in asked:
            try:
                grown = each.result()
            except Unavailable as error:
                silent.append(str(error))
                continue
            if grown is not None and grown[1].at > 0:
                self._scores.learn(grown[1])
                readings.append(Reading.of(*grown))
        return readings, silent

    def _apply(self, allocation: Allocation, settings: dict[str, Any]) -> tuple[bool, bool, list[str]]:
        """Instances first, since settings may count on them. Tells what changed, what is in force, and problems."""
        if self._plan.dry_run:
            return self._differs(settings), False, []
        try:
            self._move_instances(allocation)
            changed = [file.write(settings) for file in self._settings]
        except (Unavailable, InvalidArgument) as error:
            return True, False, [str(error)]
        self._present = allocation
        State(allocation, self._scores.to_json()).save(self._state_file)
        return any(changed), any(changed), []

    def _differs(self, settings: dict[str, Any]) -> bool:
        try:
            present = [file.read() for file in self._settings]
        except InvalidArgument:
            return True
        return any(each.get(name) != value for each in present for name, value in settings.items())

    def _move_instances(self, allocation: Allocation) -> None:
        """Every server gets the same counts: the share of its own devices that a variant has of all."""
        if self._plan.profile.shared:
            return
        movable = [server.instances for server in self._servers if server.instances is not None]
        for number, instances in enumerate(movable):
            instances.apply(_share(allocation, number, len(movable)))

    def _note(self, decision: Decision) -> None:
        (log.info if decision.changed or decision.problems else log.debug)("%s", decision.line())
        self._tell(decision)
        try:
            self._journal.note(decision)
        except OSError as error:
            log.warning("%s cannot be written: %s", self._journal.path, error.strerror)


def _share(allocation: Allocation, number: int, servers: int) -> dict[str, int]:
    """The instances of one server of several: whole ones, what does not divide goes to the first."""
    return {
        variant: round(count) // servers + (number < round(count) % servers)
        for variant, count in allocation.instances.items()
    }
