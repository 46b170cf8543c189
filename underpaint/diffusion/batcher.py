"""Who takes part in the next UNet call: earliest deadline first, nobody starved. Decides; touches no tensor.

A request without a deadline counts as due ``patience`` after it came, and none counts as due later than that. A
newcomer's due time lies after its arrival, so no request is overtaken once its patience has run out, and requests
of equal patience are served in order of arrival.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain

from underpaint.errors import InvalidArgument, Unavailable


@dataclass(frozen=True)
class Ticket:
    """A request's claim to a place in the batch.

    ``rows`` of the UNet batch that a step of it takes: 1, or 2 under classifier-free guidance. ``shape`` of its sample;
    only requests of one shape share a call. Times are nanoseconds of the machine's monotonic clock, which all processes
    of a server share. ``split``: its prompt and its negative prompt are to go side by side, whatever else there is.
    ``kin``: requests of one kin cost less in one call than apart. ``company``: how many requests other variants are at
    work on when it comes, on the same machine.
    """

    request_id: str
    rows: int
    arrived_ns: int
    deadline_ns: int | None = None
    shape: tuple[int, ...] = ()
    split: bool = False
    kin: tuple[str, ...] = ()
    company: int = 0

    def due_ns(self, patience_ns: int) -> int:
        """When this request should be done, for the sake of ordering."""
        late = self.arrived_ns + patience_ns
        return late if self.deadline_ns is None else min(self.deadline_ns, late)

    def expired(self, now_ns: int) -> bool:
        return self.deadline_ns is not None and now_ns >= self.deadline_ns


class StepBatcher:
    """The requests of one variant between steps: ``take`` a batch, run one step, ``give_back`` what is not done."""

    def __init__(self, max_rows: int, stacks: int = 1, patience_ns: int = 60_000_000_000, capacity: int = 256) -> None:
        """
        Args:
            max_rows: batch limit of the UNet.
            stacks: how many UNet calls are kept in flight at once; the work is shared out between them.
            patience_ns: due time of a request that names none.
            capacity: how many requests may be here at once.
        """
        self._max_rows, self._stacks = max_rows, stacks
        self._patience_ns, self._capacity = patience_ns, capacity
        self._waiting: dict[str, Ticket] = {}
        self._in_flight: dict[str, Ticket] = {}
        self._held: dict[str, Ticket] = {}
        self._stood_back: set[str] = set()
        self._company = 0  # as the latest request has it

    def __len__(self) -> int:
        return len(self._waiting) + len(self._in_flight) + len(self._held)

    def __contains__(self, request_id: str) -> bool:
        return any(request_id in place for place in (self._waiting, self._in_flight, self._held))

    @property
    def waiting(self) -> int:
        """Requests that are not part of a UNet call at this moment, but could be."""
        return len(self._waiting)

    def add(self, ticket: Ticket) -> None:
        """Admit a request; it joins at the next turn.

        Raises:
            Unavailable: as many requests as allowed are here already.
            InvalidArgument: its id is here already, or it needs more rows than the UNet takes.
        """
        if ticket.request_id in self:
            raise InvalidArgument.of("request_id", ticket.request_id, "an id that is not in use by another request")
        if ticket.rows > self._max_rows:
            raise InvalidArgument.of(
                "guidance_scale", f"{ticket.rows} rows", f"at most {self._max_rows} rows a request"
            )
        if len(self) >= self._capacity:
            raise Unavailable(f"the denoiser holds {self._capacity} requests, its limit; try again later")
        self._waiting[ticket.request_id] = ticket
        self._company = ticket.company

    def take(self) -> list[Ticket]:
        """The most urgent request and, after it, those that fit into the same UNet call; empty if nobody waits."""
        share, rows = self._fair_share(), 0
        batch: list[Ticket] = []
        for ticket in self._queue():
            if rows >= share or rows + ticket.rows > self._max_rows:
                break
            if not batch or ticket.shape == batch[0].shape:
                batch.append(ticket)
                rows += ticket.rows
        for ticket in self._parted(batch):
            self._stood_back.add(ticket.request_id)
            batch.remove(ticket)
        for ticket in batch:
            self._in_flight[ticket.request_id] = self._waiting.pop(ticket.request_id)
        return batch

    def _queue(self) -> list[Ticket]:
        """Who waits, the most urgent first. Those whose turn it is can all be under way at once, if not in one call:
        among them kin stands together, for which nobody has to wait a turn longer."""
        queue = sorted(self._waiting.values(), key=lambda t: (t.due_ns(self._patience_ns), t.arrived_ns))
        free = self._stacks * self._max_rows - sum(ticket.rows for ticket in self._in_flight.values())
        ends = accumulate(ticket.rows for ticket in queue)
        turn = sum(end <= free for end in ends)
        kinds: dict[tuple[str, ...], list[Ticket]] = {}  # in the order of their first
        for ticket in queue[:turn]:
            kinds.setdefault(ticket.kin, []).append(ticket)
        return [*chain.from_iterable(kinds.values()), *queue[turn:]]

    def _parted(self, batch: Sequence[Ticket]) -> Sequence[Ticket]:
        """Whose kin is under way in another call, and who waits for it to come back, so that from then on they go
        together, where they are few enough for one call. Each does so once; the most urgent never does, and half of
        a call goes in any case, so that it costs next to nothing."""
        away = {ticket.kin for ticket in self._in_flight.values() if ticket.kin}
        if not away:
            return []
        rows: Counter[tuple[str, ...]] = Counter()
        for ticket in (*self._waiting.values(), *self._in_flight.values()):
            rows[ticket.kin] += ticket.rows
        together = {kin for kin in away if rows[kin] <= self._fair_share()}
        parted = [each for each in batch[1:] if each.kin in together and each.request_id not in self._stood_back]
        return parted[max(0, len(parted) - len(batch) // 2) :]

    def calls_for(self, batch: Sequence[Ticket]) -> int:
        """Over how many UNet calls the rows of a batch just taken are spread.

        More than one where a request under guidance would leave stacks idle: then the prompt's row and the negative
        prompt's go side by side, which halves the latency and takes nothing from anybody (others' cores are not idle,
        see ``_fair_share``); or where one asks for it, which is at the cost of the others.
        """
        rows = sum(ticket.rows for ticket in batch)
        asked = 2 if any(ticket.split and ticket.rows == 2 for ticket in batch) else 1
        return max(1, min(self._stacks, max(asked, rows // max(1, self._fair_share()))))

    def give_back(self, tickets: Iterable[Ticket]) -> None:
        """These have had their step. Those discarded meanwhile stay away."""
        for ticket in tickets:
            if self._in_flight.get(ticket.request_id) == ticket:
                self._waiting[ticket.request_id] = self._in_flight.pop(ticket.request_id)

    def hold(self, request_id: str) -> None:
        """This request cannot go on for now; it takes part in nothing until it is released."""
        ticket = self._waiting.pop(request_id, None) or self._in_flight.pop(request_id, None)
        if ticket is not None:
            self._held[request_id] = ticket

    def release(self, request_id: str) -> None:
        """What this request had to wait for is there. Does nothing for one that is not held."""
        if request_id in self._held:
            self._waiting[request_id] = self._held.pop(request_id)

    def discard(self, request_id: str) -> None:
        """This request is done, cancelled or too late."""
        self._waiting.pop(request_id, None)
        self._in_flight.pop(request_id, None)
        self._held.pop(request_id, None)
        self._stood_back.discard(request_id)

    def expired(self, now_ns: int) -> list[Ticket]:
        """Requests that wait or are held, and whose deadline has passed."""
        idle = (*self._waiting.values(), *self._held.values())
        return [ticket for ticket in idle if ticket.expired(now_ns)]

    def _fair_share(self) -> int:
        """Rows that a stack has to carry at least, if nobody is to be left over.

        What other variants are at work on counts as if it were here, since the cores are theirs as well: rows cost up
        to twice as much in small calls, which pays only where a core would be idle.
        """
        here = [ticket.rows for place in (self._waiting, self._in_flight) for ticket in place.values()]
        company = self._company * sum(here) / len(here) if here else 0
        return math.ceil((sum(here) + company) / self._stacks)
