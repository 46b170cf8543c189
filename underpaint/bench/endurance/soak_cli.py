"""The command ``underpaint bench soak``."""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime
from itertools import islice
from pathlib import Path

import psutil

from underpaint.bench.common import options
from underpaint.bench.common.machine import Machine
from underpaint.bench.common.progress import Progress
from underpaint.bench.common.report import about, leave, rounded, table
from underpaint.bench.demand.open_loop import Reply, open_loop
from underpaint.bench.demand.served import Account
from underpaint.bench.demand.workload import workload
from underpaint.bench.endurance.soak import MONITOR, Growth, Soaked, Use, growth, kill_of, members, uses, waves
from underpaint.bench.serving.site import PATIENCE_S
from underpaint.client.async_client import AsyncClient
from underpaint.client.sync_client import Client
from underpaint.control.profile import Profile
from underpaint.errors import Unavailable

_LOOK_EVERY_S = 10.0
_WAVE_S = 120.0
_LOW, _HIGH = 0.3, 1.3  # of what the large variant does
_DRAIN_S = 60.0
_STARTS_WITHIN_S = 300.0
_STOPS_WITHIN_S = 60.0


def add_parser(benches: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    bench = benches.add_parser(
        "soak",
        help="a server under its monitor for a long time, the monitor killed half way",
        description="`underpaint serve --monitor` under load that rises and falls; its monitor is killed half way. "
        "What becomes of the requests, and how the memory, files and threads of every process grow.",
    )
    bench.add_argument("--profile", type=Path, required=True, metavar="FILE", help="of `underpaint profile`")
    bench.add_argument("--allocator", default="hadis", help="of the monitor (default: hadis)")
    bench.add_argument("--minutes", type=float, default=12.0, help="default: 12")
    options.add_report(bench)
    options.add_repository(bench)
    bench.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    options.above_zero(args, "minutes")
    profile, machine = Profile.load(args.profile), Machine.here()
    most_per_s = 1 / profile.heaviest.work_s
    plan = waves(_LOW * most_per_s, _HIGH * most_per_s, _WAVE_S, 60 * args.minutes)
    arrivals_s = plan.arrivals_s(seed=0)
    store = tempfile.TemporaryDirectory(prefix="underpaint-soak-")
    with store as folder, _serving(args, Path(folder)) as (url, server):
        watch = _Watch(server, plan.seconds / 2)
        replies = asyncio.run(_load(url, arrivals_s, watch))
        watch.look()
        decided_s = [at - watch.began for at in _decisions(Path(folder) / "decisions.jsonl")]
    soaked, grown = Soaked.of(replies), {name: growth(seen) for name, seen in watch.seen.items()}
    kill = kill_of(watch.killed_s, decided_s, replies)
    print(text(grown))
    print(f"{soaked.requests} requests, {soaked.failed} failed, {soaked.unanswered} unanswered")
    again = "never" if kill.decided_again_s is None else f"after {kill.decided_again_s:.1f} s"
    print(f"{len(decided_s)} decisions; monitor killed at {kill.at_s:.0f} s, the next one {again}")
    report = {
        "requests": asdict(soaked),
        "kill": asdict(kill),
        "decisions": len(decided_s),
        "processes": {name: asdict(each) for name, each in grown.items()},
        "demand_per_s": [min(plan.rates_per_s), max(plan.rates_per_s)],
        "minutes": args.minutes,
        **about(machine),
    }
    leave(rounded(report), args.json)
    return 0


class _Watch:
    """Looks at the server's processes now and then, and kills the monitor once."""

    def __init__(self, server: psutil.Process, kill_at_s: float) -> None:
        self.seen: dict[str, list[Use]] = {}
        self.began, self.killed_s = time.time(), kill_at_s
        self._server, self._kill_at_s = server, kill_at_s

    def look(self) -> None:
        for name, use in uses(self._server, time.time() - self.began).items():
            self.seen.setdefault(name, []).append(use)

    async def run(self) -> None:
        killed = False
        while True:
            self.look()
            await asyncio.sleep(_LOOK_EVERY_S)
            monitor = members(self._server).get(MONITOR)
            if monitor and not killed and time.time() - self.began >= self._kill_at_s:
                killed, self.killed_s = True, time.time() - self.began
                monitor.kill()


async def _load(url: str, arrivals_s: Sequence[float], watch: _Watch) -> list[Reply]:
    items, replies = list(islice(workload(0), len(arrivals_s))), list[Reply]()
    async with AsyncClient(url) as client:

        async def send(index: int) -> Account:
            picture = await client.generate(items[index].caption, seed=items[index].seed)
            return Account.of(picture.outcome)

        watching = asyncio.create_task(watch.run())
        with Progress(len(arrivals_s), unit="reply") as progress:
            await open_loop(arrivals_s, send, _DRAIN_S, replies, lambda reply: progress.advance())
        watching.cancel()
    return replies


@contextmanager
def _serving(args: argparse.Namespace, store: Path) -> Iterator[tuple[str, psutil.Process]]:
    """``underpaint serve --monitor`` on free ports: its gRPC address and its process."""
    ports = dict(zip(("http", "grpc", "metrics"), _free_ports(3), strict=True))
    command = [sys.executable, "-m", "underpaint.cli", "serve", "--model-repository", str(args.model_repository)]
    command += ["--monitor", args.allocator, "--profile", str(args.profile), "--store", str(store)]
    command += [word for name, port in ports.items() for word in (f"--{name}-port", str(port))]
    print("starting underpaint serve --monitor …", file=sys.stderr, flush=True)
    serving = subprocess.Popen([*command, "--log-level", "warning"], stdin=subprocess.DEVNULL)
    try:
        url, process = f"localhost:{ports['grpc']}", psutil.Process(serving.pid)
        with Client(url, timeout_s=PATIENCE_S) as client:
            client.wait_ready(_STARTS_WITHIN_S)
            client.generate("a large red circle on a blue background", seed=0)
        _until_watched_over(process)
        yield url, process
    finally:
        serving.terminate()
        serving.wait(_STOPS_WITHIN_S)


def _until_watched_over(server: psutil.Process) -> None:
    due = time.monotonic() + _STARTS_WITHIN_S
    while MONITOR not in members(server):
        if time.monotonic() > due:
            raise Unavailable("the server came without its monitor")
        time.sleep(0.2)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def _decisions(journal: Path) -> list[float]:
    """When they were made, in seconds since the epoch."""
    lines = journal.read_text(encoding="utf-8").splitlines() if journal.is_file() else []
    return [datetime.fromisoformat(json.loads(line)["at"]).timestamp() for line in lines]


def text(grown: dict[str, Growth]) -> str:
    """A line a process, those that grow most first."""
    lines: list[Sequence[str]] = [("process", "memory MiB", "MiB a minute", "files", "threads")]
    for name, each in sorted(grown.items(), key=lambda item: -item[1].memory_mib_per_minute):
        memory = f"{each.memory_mib[0]:.0f} → {each.memory_mib[1]:.0f}"
        files, threads = (f"{first} → {last}" for first, last in (each.files, each.threads))
        again = " (again)" if each.restarted else ""
        lines.append((name + again, memory, f"{each.memory_mib_per_minute:+.2f}", files, threads))
    return table(lines)
