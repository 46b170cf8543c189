"""The command ``underpaint bench changes``."""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import asdict
from urllib.parse import urlsplit

from underpaint.bench.common import options
from underpaint.bench.common.machine import Machine
from underpaint.bench.common.report import about, leave, rounded, table
from underpaint.bench.endurance.changes import Change, Load, change_instances, change_settings
from underpaint.bench.serving.site import PATIENCE_S, site
from underpaint.client.prompts import PROMPTS
from underpaint.client.serving import deployment_of
from underpaint.client.sync_client import Client
from underpaint.monitor.instances import Instances
from underpaint.monitor.settings import SettingsFile
from underpaint.server.control import ControlClient

_POLICY = "random-mix"  # whose shares are settings, and can be seen in every reply


def add_parser(benches: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    bench = benches.add_parser(
        "changes",
        help="settings and instances that change under load",
        description="Closed-loop load, during which settings move all requests from one variant to the other and back, "
        "and the large UNet gets fewer and more processes: what fails, and how long until it acts.",
    )
    bench.add_argument("--workers", type=int, default=8, metavar="N", help="requests at a time (default: 8)")
    bench.add_argument("--hold", type=float, default=6.0, metavar="SECONDS", help="after each change (default: 6)")
    options.add_report(bench)
    options.add_repository(bench)
    bench.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    options.at_least(args, workers=1)
    options.above_zero(args, "hold")
    machine, deployment = Machine.watched(), deployment_of(args.model_repository)
    with site(args.model_repository) as own, Client(own.url, timeout_s=PATIENCE_S) as client:
        settings, address = SettingsFile(own.store), urlsplit(own.http_url)
        instances = Instances(ControlClient(address.hostname or "", address.port or 0))
        settings.write({"small_share": 0.0})
        client.wait_ready()

        def ask(number: int) -> str:
            prompt = PROMPTS[number % len(PROMPTS)]
            return client.generate(prompt, seed=number, policy=_POLICY, cache="off").outcome.variant

        def decide(small_share: float) -> None:
            settings.write({"small_share": small_share})

        def give(count: int) -> None:
            instances.apply({deployment.large: count})

        load = Load(ask, args.workers)
        with load.running():
            time.sleep(args.hold)
            variants = (deployment.small, deployment.large)
            changes = [
                *change_settings(load, decide, variants, args.hold, time.sleep),
                *change_instances(load, give, deployment.large, args.hold, time.sleep),
            ]
    print(text(changes, load))
    report = {
        "requests": len(load.answers),
        "failed": len(load.failures),
        "changes": [rounded(asdict(change)) for change in changes],
        "workers": args.workers,
        **about(machine),
    }
    leave(report, args.json)
    for failure in load.failures[:5]:
        print(f"underpaint: failed: {failure}", file=sys.stderr)
    return 1 if load.failures else 0


def text(changes: list[Change], load: Load) -> str:
    lines = [("change", "acts after s"), *((change.what, f"{change.acts_s:.2f}") for change in changes)]
    return f"{table(lines)}\n{len(load.answers)} requests, {len(load.failures)} failed"
