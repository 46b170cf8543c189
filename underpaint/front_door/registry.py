"""The requests that this front door is serving: who is here, who wants to leave, how many are let in."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from underpaint.errors import InvalidArgument, Unavailable

_PATIENCE_NS = 60_000_000_000


@dataclass
class Visit:
    """One request from arrival to answer.

    Attributes:
        request_id: unique among the visits of the moment.
        arrived_ns, deadline_ns, promise_ns: monotonic nanoseconds; when it came, is given up, and should be done.
        hung_up: asks whether the caller has gone; a cancellation by id counts as well.
        variant, painting_since_ns: which denoiser works on it at the moment, if any, and since when (``Job.painter``).
        version, suffix: of the family's release that serves it (``traffic.Release``).
        withdrawn: cancelled by id.
        stranded: its denoiser has stopped answering.
        spent_ns: nanoseconds in stages that not every request goes through, by name (see ``outcome.Timings``).
    """

    request_id: str
    arrived_ns: int
    deadline_ns: int | None
    hung_up: Callable[[], bool]
    promise_ns: int | None = None
    variant: str | None = None
    version: int = field(default=1, init=False)
    suffix: str = field(default="", init=False)
    painting_since_ns: int = field(default=0, init=False)
    withdrawn: bool = field(default=False, init=False)
    stranded: bool = field(default=False, init=False)
    spent_ns: Counter[str] = field(default_factory=Counter, init=False)

    @property
    def due_ns(self) -> int:
        """When it should be done, for the sake of ordering; one without a deadline is patient, but not for ever."""
        limits = (self.arrived_ns + _PATIENCE_NS, self.deadline_ns, self.promise_ns)
        return min(limit for limit in limits if limit is not None)

    def paint_with(self, variant: str) -> None:
        """From now on ``variant`` works on it."""
        self.variant, self.painting_since_ns = variant, time.monotonic_ns()

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Count the time of the ``with`` block as spent in ``stage``."""
        started_ns = time.monotonic_ns()
        try:
            yield
        finally:
            self.spent_ns[stage] += time.monotonic_ns() - started_ns

    def begin_with(self, version: int, suffix: str) -> None:
        """From now on this version of the family serves it, whatever became of another one."""
        self.version, self.suffix, self.stranded = version, suffix, False

    def cancelled(self) -> bool:
        return self.withdrawn or self.hung_up()

    def time_left_s(self) -> float | None:
        """To the deadline."""
        return None if self.deadline_ns is None else (self.deadline_ns - time.monotonic_ns()) / 1e9

    def promise_left_s(self) -> float | None:
        """To the deadline or to what was promised, whichever comes first."""
        limits = [limit for limit in (self.deadline_ns, self.promise_ns) if limit is not None]
        return (min(limits) - time.monotonic_ns()) / 1e9 if limits else None

    def waited_s(self) -> float:
        """Since it came."""
        return (time.monotonic_ns() - self.arrived_ns) / 1e9


class Registry:
    """Visits by request id."""

    def __init__(self, capacity: int) -> None:
        """``capacity``: requests that may be here at once, waiting ones included."""
        self._capacity = capacity
        self._visits: dict[str, Visit] = {}

    def __len__(self) -> int:
        return len(self._visits)

    @contextmanager
    def admit(self, visit: Visit) -> Iterator[Visit]:
        """Let a request in for the time of the ``with`` block.

        Raises:
            Unavailable: the server is full.
            InvalidArgument: a request with this id is here already.
        """
        if len(self._visits) >= self._capacity:
            raise Unavailable(f"{self._capacity} requests are being served, the limit; try again later")
        if visit.request_id in self._visits:
            raise InvalidArgument.of("request_id", visit.request_id, "an id that is not in use by another request")
        self._visits[visit.request_id] = visit
        try:
            yield visit
        finally:
            del self._visits[visit.request_id]

    def withdraw(self, request_id: str) -> Visit | None:
        """Mark a request as cancelled, and return it if it is here."""
        visit = self._visits.get(request_id)
        if visit is not None:
            visit.withdrawn = True
        return visit

    def variant_of(self, request_id: str) -> str | None:
        """The variant that works on a request at the moment, if any does."""
        visit = self._visits.get(request_id)
        return None if visit is None else visit.variant

    def version_of(self, request_id: str) -> int:
        """The version of the family that serves a request; 1 for one that is not here."""
        visit = self._visits.get(request_id)
        return 1 if visit is None else visit.version

    def by_suffix(self) -> Counter[str]:
        """How many requests each release serves."""
        return Counter(visit.suffix for visit in self._visits.values())

    def variants_at_work(self) -> list[str]:
        """The variants that owe an answer at the moment."""
        return sorted({visit.variant for visit in self._visits.values() if visit.variant is not None})

    def company_of(self, visit: Visit) -> int:
        """How many requests other variants than this visit's are at work on."""
        return sum(each.variant not in (None, visit.variant) for each in self._visits.values())

    def strand(self, variant: str, before_ns: int) -> None:
        """What the denoiser of ``variant`` was sent before ``before_ns`` has died with its process."""
        for visit in self._visits.values():
            if visit.variant == variant and visit.painting_since_ns < before_ns:
                visit.stranded = True
