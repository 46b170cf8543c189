"""The processor time that a server takes, by model.

On a machine that others use too, time by the clock says what they left; this says what was computed, calls between
models and copies included, whoever else was there.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress

import psutil

from underpaint.server.supervisor import list_stubs

TRITONSERVER = "tritonserver"  # itself: the wire, the ensembles, and its end of calls to models
_NUMBERS = re.compile(r"_\d+_\d+$")  # of instance group and instance, behind a model's name

Seconds = Mapping[str, float]


def processor_s(server_pid: int) -> Seconds:
    """What a tritonserver and the processes of its models have taken so far, user and system, by model."""
    taken: Counter[str] = Counter({TRITONSERVER: _seconds(server_pid)})
    for stub in list_stubs(server_pid):
        if not stub.defunct:
            taken[_NUMBERS.sub("", stub.instance)] += _seconds(stub.pid)  # type: ignore[assignment]
    return taken


def since(before: Seconds, now: Seconds) -> Seconds:
    """What was taken in between; a process that ended meanwhile took nothing."""
    return {name: max(0.0, seconds - before.get(name, 0.0)) for name, seconds in now.items()}


def _seconds(pid: int) -> float:
    with suppress(psutil.NoSuchProcess):
        times = psutil.Process(pid).cpu_times()
        return float(times.user + times.system)
    return 0.0
