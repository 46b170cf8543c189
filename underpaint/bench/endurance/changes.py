"""Changes while the server is busy: what they cost (no request, one hopes), and how long until they act.

A change of settings moves all requests from the large variant to the small one, or back: it acts when no more answer
comes from the other one. A change of instances adds or removes processes of the large variant's UNet: it acts when
model control says so. Load is closed-loop, from before the first change until after the last.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

from underpaint.errors import Unavailable, UnderpaintError

Ask = Callable[[int], str]  # has a request served, given a running number; the variant that painted it
SHARES = (1.0, 0.0, 1.0, 0.0)  # of the requests that the small variant gets, one after the other
INSTANCES = (1, 3, 2)


@dataclass(frozen=True)
class Answer:
    """Who painted a request that was sent and answered at these times, in seconds; a failure says why."""

    sent_s: float
    answered_s: float
    variant: str
    failure: str = ""


@dataclass(frozen=True)
class Change:
    """``acts_s``: from when it was asked for until it was in force."""

    what: str
    acts_s: float


@dataclass(eq=False)
class Load:
    """Workers that ask without a pause, and all that they were answered."""

    ask: Ask
    workers: int
    clock: Callable[[], float] = time.monotonic
    answers: list[Answer] = field(default_factory=list)

    @contextmanager
    def running(self) -> Iterator[None]:
        over, numbers = threading.Event(), itertools.count()

        def work(_: int) -> None:
            while not over.is_set():
                self.answers.append(self._one(next(numbers)))

        with ThreadPoolExecutor(self.workers) as pool:
            done = [pool.submit(work, worker) for worker in range(self.workers)]
            try:
                yield
            finally:
                over.set()
        for each in done:
            each.result()

    def _one(self, number: int) -> Answer:
        sent_s = self.clock()
        try:
            variant, failure = self.ask(number), ""
        except UnderpaintError as error:
            variant, failure = "", f"{type(error).__name__}: {error}"
        return Answer(sent_s, self.clock(), variant, failure)

    @property
    def failures(self) -> list[str]:
        return [answer.failure for answer in self.answers if answer.failure]


def settings_acted_s(answers: Sequence[Answer], asked_s: float, until_s: float, variant: str) -> float:
    """From ``asked_s`` until the last request was sent that another variant than this one painted.

    Raises:
        Unavailable: to the very end, requests went to another one.
    """
    window = [answer for answer in answers if asked_s <= answer.sent_s < until_s and not answer.failure]
    last = max((answer.sent_s for answer in window if answer.variant != variant), default=asked_s)
    if not any(answer.sent_s > last for answer in window):
        raise Unavailable(f"within {until_s - asked_s:.0f} s the settings did not bring all requests to {variant}")
    return last - asked_s


def change_settings(
    load: Load, decide: Callable[[float], None], variants: tuple[str, str], hold_s: float, wait: Callable[[float], None]
) -> list[Change]:
    """``decide`` gives a share of all requests to the first of the ``variants``, the small one."""
    small, large = variants
    changes = []
    for share in SHARES:
        asked_s = load.clock()
        decide(share)
        wait(hold_s)
        chosen = small if share else large
        acts_s = settings_acted_s(load.answers, asked_s, load.clock(), chosen)
        changes.append(Change(f"all requests to {chosen}", acts_s))
    return changes


def change_instances(
    load: Load, apply: Callable[[int], None], variant: str, hold_s: float, wait: Callable[[float], None]
) -> list[Change]:
    """``apply`` gives the UNet of ``variant`` so many processes, and returns when it has them."""
    changes = []
    for count in INSTANCES:
        asked_s = load.clock()
        apply(count)
        changes.append(Change(f"{count} instances of {variant}", load.clock() - asked_s))
        wait(hold_s)
    return changes
