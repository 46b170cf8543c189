"""Who runs in a replay: policies as they are, policies whose shares a monitor decides, and static splits.

A static split gives a fixed share of all requests to the small variant, whichever they are (the policy random-mix).
Swept from nothing to everything, the splits are the front that a cascade has to beat.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from underpaint.bench.serving.dials import SETTLE_S
from underpaint.bench.serving.site import Site
from underpaint.control import allocators
from underpaint.control.allocation import Fleet
from underpaint.control.profile import Profile
from underpaint.errors import InvalidArgument
from underpaint.monitor.journal import Journal
from underpaint.monitor.metrics import Endpoint
from underpaint.monitor.monitor import Monitor, Plan, Server
from underpaint.monitor.settings import SettingsFile
from underpaint.policies import by_name

_SPLIT = "random-mix"


@dataclass(frozen=True)
class Contender:
    """One line of the report.

    Attributes:
        policy: what its requests name; None leaves it to the settings.
        decided: goes into the store's settings before its runs.
        allocator: of the monitor that decides during them, if any.
        share: of a static split.
    """

    name: str
    policy: str | None
    decided: Mapping[str, Any] = field(default_factory=dict)
    allocator: str | None = None
    share: float | None = None


@dataclass(frozen=True)
class Control:
    """What the monitors of controlled contenders go by."""

    profile: Profile
    period_s: float = 2.0


def contenders(policies: Sequence[str], shares: Sequence[float], control: Control | None) -> tuple[Contender, ...]:
    """Each policy, under a monitor where there is an allocator for it; then the static splits."""
    for name in policies:
        by_name(name)
    for share in shares:
        if not 0 <= share <= 1:
            raise InvalidArgument.of("static", share, "shares, 0 to 1")
    named = [
        Contender(name, None, {"policy": name}, allocator=name)
        if control is not None and name in allocators.ALLOCATORS
        else Contender(name, name)
        for name in policies
    ]
    splits = [Contender(f"static {share:.2f}", _SPLIT, {"small_share": share}, share=share) for share in shares]
    return (*named, *splits)


@contextmanager
def on_stage(
    contender: Contender,
    site: Site | None,
    control: Control | None,
    slo_s: float,
    wait: Callable[[float], None] = time.sleep,
) -> Iterator[None]:
    """The server as this contender wants it, for the time of a run.

    Raises:
        InvalidArgument: the contender needs settings, and the server is not ours to decide for.
    """
    if not contender.decided:
        yield
        return
    if site is None:
        raise InvalidArgument.of("url", "a running server", f"a server of the bench's own, for {contender.name}")
    settings = SettingsFile(site.store)
    settings.path.unlink(missing_ok=True)
    settings.write(contender.decided)
    wait(SETTLE_S)
    try:
        if contender.allocator is None or control is None:
            yield
        else:
            with _monitored(contender.allocator, site, control, slo_s):
                yield
    finally:
        settings.path.unlink(missing_ok=True)


@contextmanager
def _monitored(allocator: str, site: Site, control: Control, slo_s: float) -> Iterator[None]:
    plan = Plan(allocators.by_name(allocator), control.profile, Fleet(1, slo_s, control.period_s))
    server = Server(Endpoint(site.metrics_url))
    monitor = Monitor([server], [site.store], plan, Journal(site.store / f"decisions-{allocator}.jsonl"))
    stop = threading.Event()
    thread = threading.Thread(target=monitor.run, args=[stop], name="monitor", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        monitor.close()
