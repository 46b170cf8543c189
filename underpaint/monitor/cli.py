"""``underpaint monitor``: keep the settings of running servers in step with what is asked of them."""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import filelock

from underpaint.cache.location import default_store
from underpaint.control import allocators
from underpaint.control.allocation import Fleet, Form
from underpaint.control.machine import machine_name
from underpaint.control.profile import Profile
from underpaint.deployment import FILE_NAME, Deployment, default_repository
from underpaint.errors import InvalidArgument, Unavailable
from underpaint.monitor.exporter import Exporter
from underpaint.monitor.instances import Instances
from underpaint.monitor.journal import Decision, Journal
from underpaint.monitor.metrics import Endpoint
from underpaint.monitor.monitor import Monitor, Plan, Server
from underpaint.server.control import ControlClient

_PROFILE, _JOURNAL, _LOCK = "profile.json", "decisions.jsonl", "monitor.lock"
_FRONT_DOOR = "generate"
_LOCAL = ("127.0.0.1:", "localhost:")
_SLO_IN_LATENCIES = 4.0
_FORMAT = "%(asctime)s %(levelname)-7s %(message)s"


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "monitor",
        help="adapt the settings of running servers to their load",
        description="Read servers' metrics, ask an allocator what follows, and write it into the settings of their "
        "store. Stop it at any time: serving goes on with the last settings.",
    )
    where = parser.add_argument_group("servers")
    where.add_argument(
        "--server",
        action="append",
        metavar="HOST:HTTP:METRICS",
        help="ports of a server; repeatable; default: 127.0.0.1:8000:8002",
    )
    where.add_argument(
        "--store", action="append", type=Path, metavar="DIR", help="a store of theirs; repeatable; default: as serve"
    )
    what = parser.add_argument_group("decisions")
    what.add_argument("--allocator", default="hadis", help=f"{', '.join(allocators.ALLOCATORS)}; default: %(default)s")
    what.add_argument("--form", choices=list(Form), default=Form.CORRECTED, type=Form, help="default: %(default)s")
    what.add_argument(
        "--profile", type=Path, metavar="FILE", help=f"of `underpaint profile`; default: {_PROFILE} in the store"
    )
    what.add_argument(
        "--model-repository",
        type=Path,
        metavar="DIR",
        default=default_repository(),
        help="of the servers, to warn where the profile speaks of other weights; default: that of underpaint serve",
    )
    what.add_argument(
        "--slo",
        type=float,
        metavar="SECONDS",
        help=f"the promised latency; default: {_SLO_IN_LATENCIES:g} times an image of the heaviest variant",
    )
    what.add_argument("--devices", type=int, default=1, help="of all servers together; default: %(default)s")
    what.add_argument("--period", type=float, default=5.0, metavar="SECONDS", help="default: %(default)g")
    how = parser.add_argument_group("running")
    how.add_argument("--dry-run", action="store_true", help="decide and say so, but change nothing")
    how.add_argument("--once", action="store_true", help="decide once, after one period, and exit")
    how.add_argument("--log", type=Path, metavar="FILE", help=f"of decisions; default: {_JOURNAL} in the store")
    how.add_argument("--metrics-port", type=int, metavar="PORT", help="metrics of the monitor's own; default: none")
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, datefmt="%H:%M:%S", format=_FORMAT, force=True)
    stores = args.store or [default_store()]
    profile = Profile.load(args.profile or stores[0] / _PROFILE)
    addresses = args.server or ["127.0.0.1:8000:8002"]
    here = all(text.startswith(_LOCAL) for text in addresses)
    _warn_of_misfits(profile, args.model_repository, machine_name() if here else profile.machine)
    slo_s = args.slo or profile.slo_s or _SLO_IN_LATENCIES * profile.heaviest.seconds(1)
    fleet = Fleet(args.devices, slo_s, args.period)
    plan = Plan(allocators.by_name(args.allocator, args.form), profile, fleet, dry_run=args.dry_run)
    servers = [_server(text) for text in addresses]
    with _alone(stores[0]), _exporter(args.metrics_port) as tell:
        monitor = Monitor(servers, stores, plan, Journal(args.log or stores[0] / _JOURNAL), tell)
        try:
            return _once(monitor, args.period) if args.once else _run(monitor)
        finally:
            monitor.close()


def _warn_of_misfits(profile: Profile, repository: Path, machine: str) -> None:
    """Decisions by a profile of other weights, or of another machine, are no better than the profile; serving does not
    depend on them. ``machine``: of the servers, as far as it is known."""
    folder = repository / _FRONT_DOOR / "1"
    if not (folder / FILE_NAME).is_file():
        return
    for each in profile.misfits(Deployment.load(folder), machine):
        logging.getLogger("underpaint.monitor").warning("%s; run `underpaint profile`", each)


def _run(monitor: Monitor) -> int:
    stop = threading.Event()
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, lambda number, frame: stop.set())
    monitor.run(stop)
    return 0


def _once(monitor: Monitor, period_s: float) -> int:
    """Two looks, a period apart: the first is what the second is compared with."""
    monitor.step()
    threading.Event().wait(period_s)
    decision = monitor.step()
    if decision is None:
        raise Unavailable("no server answered twice")
    print(decision.line())
    return 1 if decision.problems else 0


def _server(text: str) -> Server:
    parts = text.rsplit(":", 2)
    if len(parts) != 3 or not all(port.isdigit() and 0 < int(port) < 65536 for port in parts[1:]):
        raise InvalidArgument.of("server", text, "HOST:HTTP_PORT:METRICS_PORT")
    host, http, metrics = parts
    return Server(Endpoint(f"http://{host}:{metrics}/metrics"), Instances(ControlClient(host, int(http))))


@contextmanager
def _alone(store: Path) -> Iterator[None]:
    """One monitor for a store: two would undo each other's decisions."""
    store.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(store / _LOCK)
    try:
        with lock.acquire(timeout=0):
            yield
    except filelock.Timeout:
        raise Unavailable(f"another monitor decides for {store} already: stop it first") from None


@contextmanager
def _exporter(port: int | None) -> Iterator[Callable[[Decision], None]]:
    if port is None:
        yield lambda decision: None
        return
    try:
        exporter = Exporter(port)
    except OSError as error:
        raise InvalidArgument.of("metrics-port", port, f"a free port ({error.strerror})") from None
    try:
        yield exporter.tell
    finally:
        exporter.close()
