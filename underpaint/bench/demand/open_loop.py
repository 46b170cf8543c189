"""Load that does not wait for answers.

Requests are sent when a trace says so, whether or not earlier ones have been answered, and latency counts from that
moment. A generator that waits for answers would send less just when the server is slow, and leave the worst latencies
unmeasured ("coordinated omission").
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from underpaint.bench.demand.served import Account
from underpaint.errors import UnderpaintError


@dataclass(frozen=True)
class Reply:
    """What became of one request; seconds since the run began.

    Attributes:
        due_s: when it should be sent; sent_s: when it was.
        ended_s: when its answer came, or an error, or else when the run ended.
        trouble: why no picture came: the name of an error, or "unanswered" at the end of the run.
    """

    index: int
    due_s: float
    sent_s: float
    ended_s: float
    trouble: str = ""
    account: Account | None = None

    @property
    def answered(self) -> bool:
        return not self.trouble

    @property
    def latency_s(self) -> float:
        """From when it was due."""
        return self.ended_s - self.due_s


class Send(Protocol):
    """Has a request, by its number, served."""

    def __call__(self, index: int, /) -> Awaitable[Account]: ...


UNANSWERED = "unanswered"


async def open_loop(
    arrivals_s: Sequence[float],
    send: Send,
    drain_s: float,
    replies: list[Reply],
    tell: Callable[[Reply], None] = lambda reply: None,
) -> None:
    """Send every request when it is due, and wait ``drain_s`` seconds beyond the last for answers.

    Args:
        replies: what became of each is added here as soon as it is known, so that an interruption loses nothing.
    """
    loop = asyncio.get_running_loop()
    began = loop.time()

    async def one(index: int, due_s: float) -> None:
        sent_s = loop.time() - began
        try:
            account = await send(index)
            reply = Reply(index, due_s, sent_s, loop.time() - began, account=account)
        except UnderpaintError as error:
            reply = Reply(index, due_s, sent_s, loop.time() - began, type(error).__name__)
        except asyncio.CancelledError:
            replies.append(Reply(index, due_s, sent_s, loop.time() - began, UNANSWERED))
            raise
        replies.append(reply)
        tell(reply)

    under_way: set[asyncio.Task[None]] = set()
    for index, due_s in enumerate(arrivals_s):
        # Also when late: sleeping for no time lets answers be taken in.
        await asyncio.sleep(max(0.0, began + due_s - loop.time()))
        task = asyncio.create_task(one(index, due_s))
        under_way.add(task)
        task.add_done_callback(under_way.discard)
    if under_way:
        _, late = await asyncio.wait(under_way, timeout=drain_s)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)
