"""Which models stay loaded, by whom they are used and how many may be."""

from __future__ import annotations

import pytest

from underpaint.addons.residency import Residency
from underpaint.errors import Unavailable

PATIENCE_S = 20.0


class Server:
    """What is loaded, and in which order that came about."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.broken: set[str] = set()

    def load(self, name: str) -> None:
        if name in self.broken:
            raise Unavailable(f"{name} is broken")
        self.log.append(f"+{name}")

    def unload(self, name: str) -> None:
        self.log.append(f"-{name}")


def residency(server: Server, limit: int = 2) -> Residency:
    return Residency(server.load, server.unload, limit)


def use(kept: Residency, *names: str) -> None:
    """From acquiring to releasing, all that was decided done."""
    for loading in kept.acquire(names):
        loading.result(PATIENCE_S)
    kept.release(names)
    settle(kept)


def settle(kept: Residency) -> None:
    kept._worker.submit(lambda: None).result(PATIENCE_S)


def test_what_is_loaded_is_not_loaded_again() -> None:
    server = Server()
    kept = residency(server)
    use(kept, "a")
    use(kept, "a", "b")
    assert server.log == ["+a", "+b"]


def test_the_one_unused_for_longest_goes() -> None:
    server = Server()
    kept = residency(server)
    for name in ("a", "b", "a", "c"):
        use(kept, name)
    assert server.log == ["+a", "+b", "+c", "-b"]


def test_what_is_in_use_stays_beyond_the_limit_and_goes_after() -> None:
    server = Server()
    kept = residency(server, limit=1)
    for loading in kept.acquire(["a", "b"]):
        loading.result(PATIENCE_S)
    settle(kept)
    assert server.log == ["+a", "+b"]
    kept.release(["a", "b"])
    settle(kept)
    assert server.log == ["+a", "+b", "-a"]


def test_two_users_are_two() -> None:
    server = Server()
    kept = residency(server, limit=1)
    for _ in range(2):
        kept.acquire(["a"])
    kept.release(["a"])
    use(kept, "b")
    assert server.log == ["+a", "+b", "-b"]


def test_what_could_not_be_loaded_is_tried_again() -> None:
    server = Server()
    server.broken.add("a")
    kept = residency(server)
    (loading,) = kept.acquire(["a"])
    with pytest.raises(Unavailable, match="a is broken"):
        loading.result(PATIENCE_S)
    kept.release(["a"])
    server.broken.clear()
    use(kept, "a")
    assert server.log == ["+a"]


def test_what_does_not_answer_is_loaded_again() -> None:
    server = Server()
    kept = residency(server)
    kept.restore("a")  # nobody ever wanted it
    for loading in kept.acquire(["a"]):
        loading.result(PATIENCE_S)
    kept.restore("a")
    settle(kept)
    assert server.log == ["+a", "+a"]
