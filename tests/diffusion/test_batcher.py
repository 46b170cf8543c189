"""Who takes part in the next UNet call, under random streams of arrivals, deadlines, steps and departures."""

from __future__ import annotations

from dataclasses import replace
from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from underpaint.diffusion.batcher import StepBatcher, Ticket
from underpaint.errors import InvalidArgument, Unavailable

PATIENCE = 100
ROWS = st.integers(1, 2)


def ticket(name: str, rows: int = 1, arrived: int = 0, deadline: int | None = None) -> Ticket:
    return Ticket(name, rows, arrived, deadline)


def batcher(max_rows: int = 4, stacks: int = 1, capacity: int = 100) -> StepBatcher:
    return StepBatcher(max_rows, stacks, PATIENCE, capacity)


def filled(tickets: list[Ticket], max_rows: int = 4, stacks: int = 1) -> StepBatcher:
    full = batcher(max_rows, stacks)
    for each in tickets:
        full.add(each)
    return full


def names(tickets: list[Ticket]) -> list[str]:
    return [each.request_id for each in tickets]


def due(each: Ticket) -> int:
    patience_ends = each.arrived_ns + PATIENCE
    return patience_ends if each.deadline_ns is None else min(each.deadline_ns, patience_ends)


def test_in_company_rows_stay_together() -> None:
    """Two stacks, which a request would spread over; but others want the cores as well."""
    alone, accompanied = (replace(ticket("a", rows=2), company=company) for company in (0, 1))
    for each, calls in ((alone, 2), (accompanied, 1)):
        single = filled([each], stacks=2)
        assert single.calls_for(single.take()) == calls
    four = [replace(ticket(name, rows=2, arrived=n), company=0) for n, name in enumerate("abcd")]
    apart = filled(four, max_rows=8, stacks=2)
    assert [names(apart.take()), names(apart.take())] == [["a", "b"], ["c", "d"]]
    together = filled([replace(each, company=4) for each in four], max_rows=8, stacks=2)
    assert names(together.take()) == ["a", "b", "c", "d"]


def test_company_counts_as_the_latest_request_found_it() -> None:
    left = filled([replace(ticket("a", rows=2), company=9), ticket("b", rows=2, arrived=1)], max_rows=8, stacks=2)
    assert [names(left.take()), names(left.take())] == [["a"], ["b"]]


class Stream(RuleBasedStateMachine):
    """A batcher and, beside it, plain sets of who should be where."""

    @initialize(max_rows=st.integers(2, 7), stacks=st.integers(1, 3), capacity=st.integers(1, 12))
    def open(self, max_rows: int, stacks: int, capacity: int) -> None:
        self.batcher = StepBatcher(max_rows, stacks, PATIENCE, capacity)
        self.max_rows, self.stacks, self.capacity = max_rows, stacks, capacity
        self.now = 0
        self.names = count()
        self.waiting: dict[str, Ticket] = {}
        self.calls: list[list[Ticket]] = []  # batches in flight, those discarded meanwhile included
        self.gone: set[str] = set()

    @property
    def flying(self) -> dict[str, Ticket]:
        return {t.request_id: t for call in self.calls for t in call if t.request_id not in self.gone}

    @property
    def here(self) -> int:
        return len(self.waiting) + len(self.flying)

    @rule(passed=st.integers(1, 2 * PATIENCE))
    def time_passes(self, passed: int) -> None:
        self.now += passed

    @rule(rows=ROWS, left=st.none() | st.integers(1, 3 * PATIENCE))
    def arrive(self, rows: int, left: int | None) -> None:
        newcomer = ticket(f"r{next(self.names)}", rows, self.now, None if left is None else self.now + left)
        if self.here >= self.capacity:
            with pytest.raises(Unavailable, match=str(self.capacity)):
                self.batcher.add(newcomer)
        else:
            self.batcher.add(newcomer)
            self.waiting[newcomer.request_id] = newcomer

    @precondition(lambda self: self.here > 0)
    @rule(data=st.data())
    def arrive_under_a_name_in_use(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.waiting | self.flying)))
        with pytest.raises(InvalidArgument, match=r"^request_id: "):
            self.batcher.add(ticket(name, 1, self.now))

    @precondition(lambda self: len(self.calls) < self.stacks)
    @rule()
    def take(self) -> None:
        expired = self.batcher.expired(self.now)
        late = [t for t in self.waiting.values() if t.deadline_ns is not None and t.deadline_ns <= self.now]
        assert sorted(names(expired)) == sorted(names(late))
        for each in expired:
            self.batcher.discard(each.request_id)
            del self.waiting[each.request_id]
        batch = self.batcher.take()
        assert bool(batch) == bool(self.waiting)  # never idle while anyone waits
        assert sum(t.rows for t in batch) <= self.max_rows
        for each in batch:
            assert self.waiting.pop(each.request_id) == each
        for left in self.waiting.values():
            assert all(due(t) <= due(left) for t in batch)  # earliest due first
            assert all(t.arrived_ns < left.arrived_ns + PATIENCE for t in batch)  # nobody starved
        if batch:
            self.calls.append(batch)

    @precondition(lambda self: self.calls)
    @rule(data=st.data())
    def a_call_returns(self, data: st.DataObject) -> None:
        batch = self.calls.pop(data.draw(st.integers(0, len(self.calls) - 1)))
        for each in data.draw(st.lists(st.sampled_from(batch), unique=True)):
            self.batcher.discard(each.request_id)  # done
            self.gone.add(each.request_id)
        self.batcher.give_back(batch)
        self.waiting |= {t.request_id: t for t in batch if t.request_id not in self.gone}

    @precondition(lambda self: self.here > 0)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.waiting | self.flying)))
        self.batcher.discard(name)
        if self.waiting.pop(name, None) is None:
            self.gone.add(name)

    @rule()
    def cancel_a_stranger(self) -> None:
        self.batcher.discard("never seen")

    @invariant()
    def counts_are_right(self) -> None:
        assert len(self.batcher) == self.here <= self.capacity
        assert self.batcher.waiting == len(self.waiting)
        assert all(name in self.batcher for name in self.waiting | self.flying)
        assert not any(name in self.batcher for name in self.gone)


TestStream = Stream.TestCase
TestStream.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


@settings(max_examples=150, deadline=None)
@given(st.lists(ROWS, min_size=1, max_size=20), st.integers(2, 9), st.integers(1, 4))
def test_the_work_is_shared_between_the_stacks(rows: list[int], max_rows: int, stacks: int) -> None:
    full = filled([ticket(f"r{i}", r, arrived=i) for i, r in enumerate(rows)], max_rows, stacks)
    loads = [sum(t.rows for t in full.take()) for _ in range(stacks)]
    assert max(loads) <= -(-sum(rows) // stacks) + 1  # no stack has more than its share, but for a pair kept together
    if full.waiting:
        assert all(load >= max_rows - 1 for load in loads)  # somebody is left over only if every call is full
    if len(set(rows)) == 1 and len(rows) >= stacks > 1:
        assert sum(load > 0 for load in loads) > 1  # nobody idles while another works for two


def test_guided_requests_leave_nobody_over() -> None:
    full = filled([ticket(name, 2, arrived=i) for i, name in enumerate("abc")], max_rows=8, stacks=2)
    assert [names(full.take()), names(full.take())] == [["a", "b"], ["c"]]


def test_one_stack_takes_all_that_fits() -> None:
    full = filled([ticket(name, 2, arrived=i) for i, name in enumerate("abcd")], max_rows=7)
    assert names(full.take()) == ["a", "b", "c"]
    assert names(full.take()) == ["d"]
    assert full.take() == []


def test_the_urgent_go_first_and_equals_in_order_of_arrival() -> None:
    full = filled([ticket("a", arrived=0), ticket("b", arrived=1), ticket("c", arrived=2, deadline=50)], max_rows=2)
    assert names(full.take()) == ["c", "a"]


def test_a_request_that_must_wait_is_not_passed_by_a_smaller_one() -> None:
    full = filled([ticket("a", arrived=0), ticket("big", 2, arrived=1), ticket("b", arrived=2)], max_rows=2)
    assert names(full.take()) == ["a"]
    assert names(full.take()) == ["big"]


def test_a_deadline_far_away_is_no_disadvantage() -> None:
    full = filled([ticket("a", arrived=0, deadline=100 * PATIENCE), ticket("b", arrived=1)], max_rows=1)
    assert names(full.take()) == ["a"]


def test_a_stream_of_urgent_requests_starves_nobody() -> None:
    crowded = filled([ticket("patient", arrived=0)], max_rows=2)
    for now in range(0, 3 * PATIENCE, 10):
        for side in "ab":
            crowded.add(ticket(f"{side}{now}", arrived=now, deadline=now + 5))
        batch = crowded.take()
        if "patient" in names(batch):
            break
        for each in batch:
            crowded.discard(each.request_id)
    assert PATIENCE - 10 <= now <= PATIENCE


def test_a_request_discarded_during_its_call_stays_away() -> None:
    full = filled([ticket("a"), ticket("b", arrived=1)])
    batch = full.take()
    full.discard("a")
    full.give_back(batch)
    assert names(full.take()) == ["b"]
    assert "a" not in full


def test_a_successor_of_the_same_name_is_not_mistaken_for_its_predecessor() -> None:
    full = filled([ticket("a")], max_rows=1, stacks=2)
    old = full.take()
    full.discard("a")
    full.add(ticket("a", arrived=5))
    full.give_back(old)  # while the successor waits
    new = full.take()
    assert [t.arrived_ns for t in new] == [5]
    full.give_back(old)  # while the successor is in a call
    assert full.take() == []
    full.give_back(new)
    assert full.take() == new


def test_a_request_that_fits_no_call_is_refused() -> None:
    with pytest.raises(InvalidArgument, match=r"guidance_scale.*at most 1 rows"):
        batcher(max_rows=1).add(ticket("a", rows=2))


def test_a_place_is_free_again_after_a_departure() -> None:
    full = batcher(capacity=1)
    full.add(ticket("a"))
    with pytest.raises(Unavailable):
        full.add(ticket("b"))
    full.discard("a")
    full.add(ticket("b"))
    assert names(full.take()) == ["b"]


def test_a_deadline_has_passed_when_it_is_reached() -> None:
    full = filled([ticket("a", deadline=50), ticket("b")])
    assert full.expired(49) == []
    assert names(full.expired(50)) == ["a"]


def test_only_samples_of_one_shape_share_a_call() -> None:
    batcher = StepBatcher(max_rows=8)
    for name, arrived, shape in (("a", 1, (4, 8, 8)), ("b", 2, (4, 16, 8)), ("c", 3, (4, 8, 8))):
        batcher.add(Ticket(name, 1, arrived, shape=shape))
    assert [t.request_id for t in batcher.take()] == ["a", "c"]
    assert [t.request_id for t in batcher.take()] == ["b"]


@pytest.mark.parametrize(
    ("stacks", "rows", "calls"),
    [
        (1, [2], [1]),
        (2, [2], [2]),  # a lone request under guidance: its two rows side by side
        (2, [1], [1]),  # without guidance there is nothing to spread
        (4, [2], [2]),  # no more calls than rows
        (2, [2, 2], [1, 1]),
        (2, [2] * 16, [1, 1]),
        (3, [2, 2], [1, 1]),
    ],
)
def test_rows_are_spread_only_where_stacks_would_idle(stacks: int, rows: list[int], calls: list[int]) -> None:
    batcher = StepBatcher(max_rows=32, stacks=stacks)
    for i, wide in enumerate(rows):
        batcher.add(Ticket(str(i), wide, arrived_ns=i))
    assert [batcher.calls_for(batcher.take()) for _ in calls] == calls


def test_a_full_batch_is_one_call() -> None:
    batcher = StepBatcher(max_rows=4, stacks=2)
    for i in range(20):
        batcher.add(Ticket(str(i), 2, arrived_ns=i))
    assert batcher.calls_for(batcher.take()) == 1


def test_kin_shares_a_call_where_all_can_be_under_way_at_once() -> None:
    batcher = StepBatcher(32, stacks=2)
    for i in range(16):
        batcher.add(Ticket(f"r{i}", 2, arrived_ns=i, kin=(f"lora-{i % 8}",)))
    first, second = batcher.take(), batcher.take()
    assert len(first) == len(second) == 8
    assert [len({each.kin for each in batch}) for batch in (first, second)] == [4, 4]


def test_for_kin_nobody_waits_a_turn_longer() -> None:
    batcher = StepBatcher(4, stacks=2)
    for i in range(12):
        batcher.add(Ticket(f"r{i}", 1, arrived_ns=i, kin=("late",) if i in (0, 7, 8, 9, 10, 11) else ()))
    under_way = {each.request_id for _ in range(2) for each in batcher.take()}
    assert under_way == {f"r{i}" for i in range(8)}, "those whose turn it is, kin or not"


def test_kin_that_two_calls_have_parted_finds_together_again() -> None:
    batcher = StepBatcher(32, stacks=2)
    for i in range(8):
        batcher.add(Ticket(f"first-{i}", 2, arrived_ns=i, kin=(f"lora-{i}",)))
    one = batcher.take() + batcher.take()
    for i in range(8):  # the second of each kin comes when the first is under way
        batcher.add(Ticket(f"second-{i}", 2, arrived_ns=8 + i, kin=(f"lora-{i}",)))
    under_way, sizes = [one, batcher.take()], []
    for _ in range(6):
        batcher.give_back(under_way.pop(0))
        under_way.append(batcher.take())
        sizes.append(len(under_way[-1]))
    assert [len({each.kin for each in batch}) for batch in under_way] == [4, 4]
    assert sizes[-2:] == [8, 8] and min(sizes) >= 4, "it costs no more than a few small calls"


@pytest.mark.parametrize(("others", "counts"), [((1, 0, 2, 3), [2, 3, 3]), ((0, 0, 0, 0), [3, 3, 3])])
def test_a_request_stands_back_once_and_only_for_kin_that_fits_into_one_call(
    others: tuple[int, ...], counts: list[int]
) -> None:
    batcher = StepBatcher(32, stacks=2)
    batcher.add(Ticket("away", 2, arrived_ns=0, kin=("lora-0",)))
    batcher.take()
    for i, other in enumerate(others):
        batcher.add(Ticket(f"r{i}", 2, arrived_ns=1 + i, kin=(f"lora-{other}",)))
    taken = []
    for _ in counts:
        batch = batcher.take()
        assert batch[0].request_id == "r0", "the most urgent goes in any case"
        taken.append(len(batch))
        batcher.give_back(batch)
    assert taken == counts
