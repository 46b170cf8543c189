"""A soak: load that rises and falls for a long time, a server under its monitor, and what grows that should not.

The server is the command ``underpaint serve --monitor`` itself. Half way its monitor is killed (SIGKILL); the server
should not notice, and a new one should go on where the old one was.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from statistics import mean

import psutil

from underpaint.bench.demand.open_loop import UNANSWERED, Reply
from underpaint.bench.demand.traces import Schedule
from underpaint.server.supervisor import list_stubs

MONITOR, TRITONSERVER = "monitor", "tritonserver"
_STEP_S = 5.0


def waves(low_per_s: float, high_per_s: float, period_s: float, seconds: float) -> Schedule:
    """Demand that swings between the two."""
    middle, swing = (low_per_s + high_per_s) / 2, (high_per_s - low_per_s) / 2
    steps = max(1, round(seconds / _STEP_S))
    angles = (2 * math.pi * (number + 0.5) * _STEP_S / period_s for number in range(steps))
    return Schedule(_STEP_S, tuple(middle - swing * math.cos(angle) for angle in angles))


@dataclass(frozen=True)
class Use:
    """What a process holds."""

    at_s: float
    pid: int
    memory_mib: float
    files: int
    threads: int


def members(serving: psutil.Process) -> dict[str, psutil.Process]:
    """The processes of ``underpaint serve``: its monitor, tritonserver, and those of the models, by name."""
    found: dict[str, psutil.Process] = {}
    for process in serving.children(recursive=True):
        with suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
            if process.name() == TRITONSERVER:
                found[TRITONSERVER] = process
                stubs = (stub for stub in list_stubs(process.pid) if not stub.defunct)
                found |= {stub.instance: psutil.Process(stub.pid) for stub in stubs}
            elif MONITOR in process.cmdline()[:4]:  # python -m underpaint.cli monitor
                found[MONITOR] = process
    return found


def uses(serving: psutil.Process, at_s: float) -> dict[str, Use]:
    """Of every process, by name; those that end while they are looked at are left out."""
    found: dict[str, Use] = {}
    for name, process in {"serve": serving, **members(serving)}.items():
        with _unless_gone():
            memory_mib = process.memory_info().rss / 2**20
            found[name] = Use(at_s, process.pid, memory_mib, process.num_fds(), process.num_threads())
    return found


@contextmanager
def _unless_gone() -> Iterator[None]:
    with suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
        yield


@dataclass(frozen=True)
class Growth:
    """Of one process, from the first look to the last; the monitor's begins anew after its death.

    ``memory_mib_per_minute``: the slope through all looks.
    """

    memory_mib: tuple[float, float]
    files: tuple[int, int]
    threads: tuple[int, int]
    memory_mib_per_minute: float
    restarted: bool


def growth(seen: Sequence[Use]) -> Growth:
    """``seen``: of one name, in order of time, one or more."""
    last = [use for use in seen if use.pid == seen[-1].pid]
    first = last[0]
    return Growth(
        memory_mib=(first.memory_mib, last[-1].memory_mib),
        files=(first.files, last[-1].files),
        threads=(first.threads, last[-1].threads),
        memory_mib_per_minute=60 * _slope([use.at_s for use in last], [use.memory_mib for use in last]),
        restarted=seen[0].pid != seen[-1].pid,
    )


def _slope(xs: Sequence[float], ys: Sequence[float]) -> float:
    x, y = mean(xs), mean(ys)
    spread = sum((each - x) ** 2 for each in xs)
    return sum((a - x) * (b - y) for a, b in zip(xs, ys, strict=True)) / spread if spread else 0.0


@dataclass(frozen=True)
class Kill:
    """Of the monitor. ``decided_again_s``: from its death to the next decision; None where there was none.

    ``answered_meanwhile``, ``failed_meanwhile``: requests that ended in that time.
    """

    at_s: float
    decided_again_s: float | None
    answered_meanwhile: int
    failed_meanwhile: int


def kill_of(at_s: float, decisions_s: Sequence[float], replies: Sequence[Reply]) -> Kill:
    """``decisions_s``: when the monitors decided, in seconds of the run."""
    again = next((each for each in sorted(decisions_s) if each > at_s), None)
    until_s = math.inf if again is None else again
    meanwhile = [reply for reply in replies if at_s <= reply.ended_s < until_s]
    answered = sum(reply.answered for reply in meanwhile)
    return Kill(at_s, None if again is None else again - at_s, answered, len(meanwhile) - answered)


@dataclass(frozen=True)
class Soaked:
    """What became of all requests."""

    requests: int
    answered: int
    failed: int
    unanswered: int
    variants: dict[str, int]

    @classmethod
    def of(cls, replies: Sequence[Reply]) -> Soaked:
        answered = [reply.account.variant for reply in replies if reply.account is not None]
        unanswered = sum(reply.trouble == UNANSWERED for reply in replies)
        counts = {name: answered.count(name) for name in sorted(set(answered))}
        return cls(len(replies), len(answered), len(replies) - len(answered) - unanswered, unanswered, counts)
