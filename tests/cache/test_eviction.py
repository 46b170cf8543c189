"""Who goes first: each strategy against a model of it that is too simple to be wrong."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from underpaint.cache.eviction import Ageing, Evictor, Strategy
from underpaint.cache.units import Heat, Past
from underpaint.errors import InvalidArgument, Unavailable

N = 50
NO_AGEING = Ageing(half_life=None, grace=0)


@dataclass
class Naive:
    """One list of units, searched from end to end."""

    strategy: Strategy
    capacity: int
    ageing: Ageing
    units: list[dict[str, int | None]] = field(default_factory=list)
    uses: dict[tuple[int, int | None], list[int]] = field(default_factory=dict)  # the events
    pinned: set[int] = field(default_factory=set)
    events: int = 0
    added: int = 0

    def add(self, entry_id: int, steps: tuple[int, ...]) -> list[tuple[int, int | None]]:
        """What has to go for it, or None where it does not fit."""
        by_state = self.strategy is Strategy.LCBFU
        own = list(steps) if by_state and steps else [None]
        gone = []
        before = list(self.units)
        while len(self.units) + len(own) > self.capacity:
            lowest = self._lowest()
            if lowest is None:
                self.units = before
                raise Unavailable("full")
            self.units.remove(lowest)
            gone.append((lowest["entry"], lowest["step"]))
        self.pinned -= {entry for entry, _ in gone} - {unit["entry"] for unit in self.units}
        self.events += 1
        for step in own:
            self.added += 1
            weight = (step or N) if by_state else 1
            self.units.append(
                {"entry": entry_id, "step": step, "weight": weight, "added": self.added, "used": self.events}
            )
        return gone

    def use(self, entry_id: int, step: int | None) -> None:
        own = [unit for unit in self.units if unit["entry"] == entry_id]
        if own:
            self.events += 1
            unit = next((each for each in own if each["step"] == step), own[-1])
            unit["used"] = self.events
            self.uses.setdefault((entry_id, unit["step"]), []).append(self.events)

    def discard(self, entry_id: int, step: int | None) -> None:
        kept = [u for u in self.units if u["entry"] != entry_id or (step is not None and u["step"] != step)]
        self.units = kept
        if not any(unit["entry"] == entry_id for unit in kept):
            self.pinned.discard(entry_id)

    def _lowest(self) -> dict[str, int | None] | None:
        free = [unit for unit in self.units if unit["entry"] not in self.pinned]
        counts = self.strategy in (Strategy.LFU, Strategy.LCBFU)
        settled = [u for u in free if not counts or u["added"] <= self.added - self.ageing.grace]
        if settled:
            return min(settled, key=self._rank)
        return min(free, key=lambda unit: unit["added"], default=None)

    def _rank(self, unit: dict[str, int | None]) -> tuple[Fraction | int, ...]:
        if self.strategy is Strategy.FIFO:
            return (unit["entry"],)
        if self.strategy is Strategy.LRU:
            return (unit["used"],)
        half_life = self.ageing.half_life
        uses = self.uses.get((unit["entry"], unit["step"]), [])
        now = self.events // half_life if half_life else 0
        ages = [now - event // half_life if half_life else 0 for event in uses]
        score = unit["weight"] * sum(Fraction(1, 2**age) for age in ages)
        return (score, unit["entry"], unit["weight"])


ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.sampled_from([(), (5,), (5, 10), (5, 10, 15, 20, 25)])),
        st.tuples(st.just("use"), st.integers(0, 30), st.sampled_from([None, 5, 10, 15, 20, 25])),
        st.tuples(st.just("discard"), st.integers(0, 30), st.sampled_from([None, 5, 25])),
        st.tuples(st.just("pin"), st.integers(0, 30)),
        st.tuples(st.just("unpin"), st.integers(0, 30)),
    ),
    max_size=80,
)


@pytest.mark.parametrize("strategy", Strategy)
@settings(max_examples=60, deadline=None)
@given(
    actions=ACTIONS,
    capacity=st.integers(5, 14),
    ageing=st.builds(Ageing, st.one_of(st.none(), st.integers(1, 12)), st.integers(0, 5)),
)
def test_the_same_go_as_from_the_naive_list(
    strategy: Strategy, actions: list[tuple], capacity: int, ageing: Ageing
) -> None:
    evictor, naive = Evictor(strategy, capacity, ageing), Naive(strategy, capacity, ageing)
    newest = 0
    for name, *values in actions:
        if name == "add":
            (steps,) = values
            try:
                expected = naive.add(newest + 1, steps)
            except Unavailable:
                with pytest.raises(Unavailable):
                    evictor.make_room(evictor.cost(steps))
            else:
                newest += 1
                gone = evictor.make_room(evictor.cost(steps))
                assert [(unit.entry_id, unit.step) for unit in gone] == expected
                evictor.add(newest, steps, N)
        elif name == "use":
            evictor.use(*values)
            naive.use(*values)
        elif name == "discard":
            entry_id, step = values
            if strategy is not Strategy.LCBFU and step is not None:
                continue
            evictor.discard(entry_id, step)
            naive.discard(entry_id, step)
        else:
            (entry_id,) = values
            if evictor.steps_of(entry_id):
                getattr(evictor, name)(entry_id)
                (naive.pinned.add if name == "pin" else naive.pinned.discard)(entry_id)
        assert evictor.size == len(naive.units) <= capacity


@pytest.mark.parametrize("strategy", Strategy)
@settings(max_examples=30, deadline=None)
@given(actions=ACTIONS, needed=st.integers(1, 9))
def test_what_is_restored_goes_again_in_the_same_order(strategy: Strategy, actions: list[tuple], needed: int) -> None:
    evictor = Evictor(strategy, 10, NO_AGEING)
    newest = 0
    for name, *values in actions:
        if name == "add":
            newest += 1
            evictor.make_room(evictor.cost(values[0]))
            evictor.add(newest, values[0], N)
        elif name == "use":
            evictor.use(*values)
    first = evictor.make_room(needed)
    evictor.restore(first)
    assert evictor.make_room(needed) == first


def fill(evictor: Evictor, entries: int, steps: tuple[int, ...] = ()) -> None:
    for entry_id in range(1, entries + 1):
        evictor.add(entry_id, steps, N)


def goes(evictor: Evictor, units: int = 1) -> list[tuple[int, int | None]]:
    return [(u.entry_id, u.step) for u in evictor.make_room(evictor.capacity - evictor.size + units)]


def test_fifo_heeds_no_use() -> None:
    evictor = Evictor(Strategy.FIFO, 3)
    fill(evictor, 3)
    evictor.use(1, None)
    assert goes(evictor, 2) == [(1, None), (2, None)]


def test_lru_keeps_what_was_used() -> None:
    evictor = Evictor(Strategy.LRU, 3)
    fill(evictor, 3)
    evictor.use(1, 5)
    assert goes(evictor, 3) == [(2, None), (3, None), (1, None)]


def test_lcbfu_weighs_uses_by_the_steps_they_save() -> None:
    """Scores: (1,5): 4·5, (1,25): 0, (2,5): 0, (2,25): 1·25. Zeros go first, the oldest of them, then 20 before 25."""
    evictor = Evictor(Strategy.LCBFU, 4, NO_AGEING)
    fill(evictor, 2, (5, 25))
    for _ in range(4):
        evictor.use(1, 5)
    evictor.use(2, 25)
    assert goes(evictor, 4) == [(1, 25), (2, 5), (1, 5), (2, 25)]


def test_lcbfu_breaks_ties_by_age_and_then_by_step() -> None:
    evictor = Evictor(Strategy.LCBFU, 6, NO_AGEING)
    fill(evictor, 2, (5, 10, 15))
    for step, uses in ((15, 1), (5, 3)):
        for _ in range(uses):
            evictor.use(1, step)  # both now at 15
    assert goes(evictor, 6) == [(1, 10), (2, 5), (2, 10), (2, 15), (1, 5), (1, 15)]


def test_an_image_without_latents_is_a_state_that_saves_all_steps() -> None:
    evictor = Evictor(Strategy.LCBFU, 3, NO_AGEING)
    evictor.add(1, (), N)
    evictor.add(2, (10, 25), N)
    evictor.use(1, None)  # 50
    evictor.use(2, 25)  # 25
    evictor.use(2, 25)  # 50: a tie, and entry 1 is older
    assert goes(evictor, 3) == [(2, 10), (1, None), (2, 25)]


def test_a_use_of_the_image_counts_for_the_dearest_state() -> None:
    evictor = Evictor(Strategy.LCBFU, 4, NO_AGEING)
    fill(evictor, 2, (5, 25))
    evictor.use(1, None)
    assert goes(evictor, 4) == [(1, 5), (2, 5), (2, 25), (1, 25)]


def test_what_was_popular_once_goes_in_the_end() -> None:
    evictor = Evictor(Strategy.LFU, 2, Ageing(half_life=4, grace=0))
    fill(evictor, 2)
    for _ in range(5):
        evictor.use(1, None)
    for _ in range(4):
        evictor.use(2, None)
    assert evictor.events == 11
    evictor.use(2, None)  # in the next epoch: it counts twice what a use of the one before does
    assert goes(evictor) == [(1, None)]


def test_newcomers_are_spared_for_a_while() -> None:
    evictor = Evictor(Strategy.LFU, 4, Ageing(half_life=None, grace=2))
    fill(evictor, 4)
    evictor.use(1, None)
    evictor.use(2, None)
    evictor.use(2, None)
    assert goes(evictor, 2) == [(1, None), (2, None)], "3 and 4 were never used, but have only just come"


def test_pinned_entries_stay_and_full_of_them_nothing_fits() -> None:
    evictor = Evictor(Strategy.FIFO, 2)
    fill(evictor, 2)
    evictor.pin(1)
    assert goes(evictor) == [(2, None)]
    evictor.add(3, (), N)
    evictor.pin(3)
    with pytest.raises(Unavailable, match=r"the cache holds 2 of 2, 1 more do not fit, and what is pinned must stay"):
        evictor.make_room(1)
    assert evictor.size == 2
    evictor.unpin(1)
    assert goes(evictor) == [(1, None)]


def test_the_past_counts() -> None:
    evictor = Evictor(Strategy.LRU, 3)
    for entry_id, used in ((1, 30), (2, 10), (3, 20)):
        evictor.add(entry_id, (5,), N, [Past(None, 1, used), Past(5, 0, used - 5)])
    assert evictor.events == 30
    evictor.use(2, None)
    assert goes(evictor, 3) == [(3, None), (1, None), (2, None)]


def test_a_heat_never_overflows_and_never_loses_a_use() -> None:
    heat = Heat(0, 0.0)
    for epoch in range(0, 5000, 500):
        heat = heat.plus(25, epoch)
    assert heat == Heat(0, 0.0).plus(25, 4500), "what is 500 half-lives old is nothing beside a new use"
    assert heat > Heat(0, 0.0).plus(25, 4499)
    assert heat.plus(1, 4500) > heat


def test_dead_units_do_not_pile_up() -> None:
    evictor = Evictor(Strategy.LRU, 10_000)
    for entry_id in range(1, 5001):
        evictor.add(entry_id, (), N)
        evictor.discard(entry_id)
    assert len(evictor._heap) < 200


@pytest.mark.parametrize("capacity", [0, -1])
def test_a_cache_for_nothing_is_refused(capacity: int) -> None:
    with pytest.raises(InvalidArgument, match="capacity: got"):
        Evictor(Strategy.FIFO, capacity)


def test_strategies_go_by_their_names() -> None:
    assert [Strategy.of(name) for name in ("fifo", "lru", "lfu", "lcbfu")] == list(Strategy)
    with pytest.raises(InvalidArgument, match="eviction: got 'arc'; allowed: fifo, lru, lfu, lcbfu"):
        Strategy.of("arc")
