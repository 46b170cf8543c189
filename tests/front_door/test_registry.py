"""Who is here, who has left, whom nobody serves any more."""

from __future__ import annotations

import time
from contextlib import ExitStack

import pytest

from underpaint.errors import InvalidArgument, Unavailable
from underpaint.front_door.registry import Registry, Visit


def visit(name: str = "a", hung_up: bool = False, deadline_ns: int | None = None) -> Visit:
    return Visit(name, time.monotonic_ns(), deadline_ns, lambda: hung_up)


def test_a_visit_ends_with_its_block_even_if_it_fails() -> None:
    registry = Registry(1)
    with pytest.raises(ZeroDivisionError), registry.admit(visit()):
        assert len(registry) == 1
        raise ZeroDivisionError
    assert len(registry) == 0
    with registry.admit(visit()):
        pass


def test_the_capacity_and_names_in_use_are_kept() -> None:
    registry = Registry(2)
    with registry.admit(visit("a")):
        with pytest.raises(InvalidArgument, match=r"^request_id: got 'a'"), registry.admit(visit("a")):
            pass
        with registry.admit(visit("b")), pytest.raises(Unavailable, match="2 requests"), registry.admit(visit("c")):
            pass
        assert len(registry) == 1  # the refused ones have taken nobody's place


def test_a_withdrawn_visit_counts_as_cancelled() -> None:
    registry = Registry(2)
    with registry.admit(visit("a")) as here, registry.admit(visit("b")) as other:
        assert not here.cancelled()
        assert registry.withdraw("a") is here
        assert here.cancelled()
        assert not other.cancelled()
    assert registry.withdraw("a") is None


def test_a_caller_who_hung_up_counts_as_cancelled() -> None:
    assert visit(hung_up=True).cancelled()


def test_time_left_is_told_in_seconds() -> None:
    assert visit().time_left_s() is None
    left = visit(deadline_ns=time.monotonic_ns() + 5 * 10**9).time_left_s()
    assert left is not None
    assert 4.0 < left <= 5.0
    late = visit(deadline_ns=time.monotonic_ns() - 10**9).time_left_s()
    assert late is not None
    assert late <= -1.0


def test_only_those_who_wait_for_the_dead_are_stranded() -> None:
    registry = Registry(4)
    names = ("a", "b", "c", "still looking")
    with ExitStack() as stack:
        a, b, c, _ = (stack.enter_context(registry.admit(visit(name))) for name in names)
        a.paint_with("tiny-l")
        b.paint_with("tiny-m")
        c.paint_with("tiny-m")
        assert [registry.company_of(each) for each in (a, b, c)] == [2, 1, 1]
