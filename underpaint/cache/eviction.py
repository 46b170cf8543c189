"""What goes when the cache is full. Only decisions: no clock, no disk.

Capacity counts *units*: entries, or, under LCBFU, the states of entries, one for each step at which latents were
captured (an entry without latents is one state, its image, that saves all of its steps). The unit of the lowest rank
goes first:

- ``fifo``, a sliding window (MoDM): the oldest entry;
- ``lru``: the entry that was used longest ago, its insertion being a use;
- ``lfu``: the entry with the fewest uses;
- ``lcbfu``, least computationally beneficial and frequently used (Nirvana, NSDI'24): the state with the lowest f·K,
  where f counts the uses of this state and K the steps that it saves.

Ties: the oldest entry first, then the lowest K.

Two weaknesses of counting are mended for ``lfu`` and ``lcbfu`` (see ``Ageing``). Without ageing, what was popular once
never leaves: so a use counts half after every ``half_life`` events, inserts and uses together. Without grace, a
newcomer, at f = 0, competes only with other zeros: so the newest ``grace`` units go only if nothing else can.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum

from underpaint.cache.units import COLD, Past, Unit
from underpaint.errors import InvalidArgument, Unavailable


class Strategy(Enum):
    """By the names that a model's parameter and the command line use."""

    FIFO = "fifo"
    LRU = "lru"
    LFU = "lfu"
    LCBFU = "lcbfu"

    @property
    def by_state(self) -> bool:
        """Whether capacity counts states instead of entries."""
        return self is Strategy.LCBFU

    @property
    def counts(self) -> bool:
        """Whether it goes by how often something was used."""
        return self in (Strategy.LFU, Strategy.LCBFU)

    @classmethod
    def of(cls, name: str) -> Strategy:
        """Raises InvalidArgument for a name that none has."""
        names = [strategy.value for strategy in cls]
        if name not in names:
            raise InvalidArgument.of("eviction", name, ", ".join(names))
        return cls(name)


@dataclass(frozen=True)
class Ageing:
    """How ``lfu`` and ``lcbfu`` forget. ``half_life`` counts events (None: they never do), ``grace`` units."""

    half_life: int | None
    grace: int

    @classmethod
    def usual(cls, capacity: int) -> Ageing:
        """A use counts half once the cache could have been refilled four times; a tenth of the cache is newcomers'."""
        return cls(half_life=4 * capacity, grace=capacity // 10)


Rank = tuple[float, ...]


class Evictor:
    """All units, and which of them go next. O(log n) for each addition, use and eviction, amortised.

    The heap is mended lazily: ranks only ever rise, so a unit that surfaces with an outdated rank sinks to its
    present one, once for all the uses it had meanwhile.
    """

    def __init__(self, strategy: Strategy, capacity: int, ageing: Ageing | None = None) -> None:
        if capacity < 1:
            raise InvalidArgument.of("capacity", capacity, "1 or more")
        self.strategy, self.capacity = strategy, capacity
        self._ageing = ageing or Ageing.usual(capacity)
        self._units: dict[int, tuple[Unit, ...]] = {}
        self._size = 0
        self._events = 0
        self._added = 0
        self._newcomers: deque[tuple[int, Unit]] = deque()  # with the number of their addition
        self._heap: list[tuple[Rank, Unit]] = []
        self._pinned: set[int] = set()
        self._parked: dict[int, list[Unit]] = {}  # pinned units that had surfaced

    @property
    def size(self) -> int:
        """Units held."""
        return self._size

    @property
    def events(self) -> int:
        """Inserts and uses so far."""
        return self._events

    def cost(self, steps: Sequence[int]) -> int:
        """The units that an entry with latents at ``steps`` takes."""
        return max(1, len(steps)) if self.strategy.by_state else 1

    def add(self, entry_id: int, steps: Sequence[int], num_inference_steps: int, past: Sequence[Past] = ()) -> None:
        """Take in an entry, a new one or one with a past; ids must ascend. Does not make room for it."""
        self._events += 0 if past else 1
        units = self._new_units(entry_id, steps, num_inference_steps)
        for unit in units:
            self._recall(unit, past)
        self._units[entry_id] = units
        self._size += len(units)
        for unit in units:
            self._added += 1
            self._newcomers.append((self._added, unit))
        self._graduate()

    def use(self, entry_id: int, step: int | None) -> None:
        """Count a use of an entry's latents at ``step``, or of its image (None); of what has gone: ignored.

        Under ``lcbfu`` a use of the image, and of latents that have gone meanwhile, counts for the dearest state left.
        """
        units = self._units.get(entry_id)
        if not units:
            return
        self._events += 1
        unit = next((each for each in units if each.step == step), units[-1])
        unit.used = self._events
        unit.heat = unit.heat.plus(unit.weight, self._epoch(self._events))

    def discard(self, entry_id: int, step: int | None = None) -> None:
        """Forget an entry, or under ``lcbfu`` its state at ``step`` alone, for other reasons than room."""
        units = self._units.get(entry_id, ())
        for unit in [each for each in units if step is None or each.step == step]:
            self._drop(unit)
        if len(self._heap) > 2 * self._size + 64:
            self._heap = [(rank, unit) for rank, unit in self._heap if self._holds(unit)]
            heapq.heapify(self._heap)

    def steps_of(self, entry_id: int) -> tuple[int | None, ...]:
        """The units of an entry by their steps, ascending; empty where it is not held."""
        return tuple(unit.step for unit in self._units.get(entry_id, ()))

    def pin(self, entry_id: int) -> None:
        """Never evict this entry. It goes on taking its place in the capacity."""
        self._pinned.add(entry_id)

    def unpin(self, entry_id: int) -> None:
        self._pinned.discard(entry_id)
        for unit in self._parked.pop(entry_id, ()):
            self._push(unit)

    def make_room(self, needed: int) -> list[Unit]:
        """Give up the units of the lowest ranks until ``needed`` more fit; empty where they do already.

        Raises Unavailable, and gives up nothing, where not enough can go.
        """
        if needed > self.capacity:
            raise Unavailable(
                f"an entry that takes {needed} does not fit in a cache of {self.capacity}: raise its capacity"
            )
        victims: list[Unit] = []
        while self._size + needed > self.capacity:
            unit = self._lowest()
            if unit is None:
                self.restore(victims)
                raise Unavailable(
                    f"the cache holds {self._size} of {self.capacity}, {needed} more do not fit, and what is pinned "
                    "must stay: unpin something, or raise the capacity"
                )
            self._drop(unit)
            victims.append(unit)
        return victims

    def restore(self, victims: Iterable[Unit]) -> None:
        """Take back what ``make_room`` gave up, because the insert came to nothing."""
        for unit in victims:
            units = (*self._units.get(unit.entry_id, ()), unit)
            self._units[unit.entry_id] = tuple(sorted(units, key=lambda each: each.weight))
            self._size += 1
            self._push(unit)

    def _new_units(self, entry_id: int, steps: Sequence[int], num_inference_steps: int) -> tuple[Unit, ...]:
        if not self.strategy.by_state:
            return (Unit(entry_id, None, 1),)
        if not steps:
            return (Unit(entry_id, None, num_inference_steps),)
        return tuple(Unit(entry_id, step, step) for step in sorted(steps))

    def _recall(self, unit: Unit, past: Sequence[Past]) -> None:
        """Where a unit stood, as far as its files tell: all their uses count as made at the last of them."""
        own = [each for each in past if unit.step is None or each.step == unit.step]
        unit.used = max((each.used for each in own), default=self._events)
        self._events = max(self._events, unit.used)
        uses = sum(each.uses for each in own)
        if uses:
            unit.heat = COLD.plus(unit.weight * uses, self._epoch(unit.used))

    def _epoch(self, event: int) -> int:
        return event // self._ageing.half_life if self._ageing.half_life else 0

    def _rank(self, unit: Unit) -> Rank:
        if self.strategy is Strategy.FIFO:
            return (unit.entry_id,)
        if self.strategy is Strategy.LRU:
            return (unit.used, unit.entry_id)
        return (*unit.heat, unit.entry_id, unit.weight)

    def _lowest(self) -> Unit | None:
        """Take out the unit of the lowest rank, or where there is no other the oldest newcomer."""
        unit = self._surfaced()
        while unit is None and self._newcomers:
            self._graduate_one()
            unit = self._surfaced()
        return unit

    def _surfaced(self) -> Unit | None:
        """Take the unit of the lowest rank out of the heap; pinned ones are put aside until they are unpinned."""
        while self._heap:
            rank, unit = heapq.heappop(self._heap)
            if not self._holds(unit):
                continue
            if unit.entry_id in self._pinned:
                self._parked.setdefault(unit.entry_id, []).append(unit)
            elif rank != self._rank(unit):
                self._push(unit)
            else:
                return unit
        return None

    def _graduate(self) -> None:
        """Let those go into the heap that are no longer among the newest."""
        grace = self._ageing.grace if self.strategy.counts else 0
        while self._newcomers and self._newcomers[0][0] <= self._added - grace:
            self._graduate_one()

    def _graduate_one(self) -> None:
        _, unit = self._newcomers.popleft()
        if self._holds(unit):
            self._push(unit)

    def _push(self, unit: Unit) -> None:
        heapq.heappush(self._heap, (self._rank(unit), unit))

    def _holds(self, unit: Unit) -> bool:
        return any(unit is each for each in self._units.get(unit.entry_id, ()))

    def _drop(self, unit: Unit) -> None:
        left = tuple(each for each in self._units[unit.entry_id] if each is not unit)
        self._size -= 1
        if left:
            self._units[unit.entry_id] = left
            return
        del self._units[unit.entry_id]
        self._pinned.discard(unit.entry_id)
        self._parked.pop(unit.entry_id, None)
