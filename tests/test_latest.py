"""A bounded memory."""

from __future__ import annotations

from underpaint.latest import Latest


def test_what_was_not_used_for_longest_is_forgotten() -> None:
    latest: Latest[str, int] = Latest(2)
    assert latest.put("a", 1) == 1
    latest.put("b", 2)
    assert latest.get("a") == 1
    latest.put("c", 3)
    assert [key in latest for key in "abc"] == [True, False, True]
    assert (latest.get("b"), len(latest)) == (None, 2)


def test_a_new_value_takes_the_place_of_the_old_one() -> None:
    latest: Latest[str, int] = Latest(2)
    for key, value in (("a", 1), ("b", 2), ("a", 3), ("c", 4)):
        latest.put(key, value)
    assert (latest.get("a"), latest.get("b"), latest.get("c")) == (3, None, 4)


def test_looking_whether_it_is_there_is_no_use() -> None:
    latest: Latest[str, int] = Latest(1)
    latest.put("a", 1)
    assert "a" in latest
    latest.put("b", 2)
    assert "a" not in latest
