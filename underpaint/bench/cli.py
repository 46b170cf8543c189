"""``underpaint bench``: measurements against a server of its own, or a running one."""

from __future__ import annotations

import argparse

from underpaint.bench.addons import cli as addons
from underpaint.bench.addons import lora_widths_cli, loras_cli
from underpaint.bench.cache import cli as cache
from underpaint.bench.cascades import burst_cli, replay_cli, routing_cli
from underpaint.bench.control import allocators_cli, validate_cli
from underpaint.bench.denoising import cli as denoiser
from underpaint.bench.endurance import changes_cli, soak_cli
from underpaint.bench.policies import cli as policies

_COMMANDS = (
    denoiser,
    policies,
    replay_cli,
    routing_cli,
    burst_cli,
    changes_cli,
    cache,
    allocators_cli,
    validate_cli,
    soak_cli,
    addons,
    loras_cli,
    lora_widths_cli,
)


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser("bench", help="measure", description="Measure; close everything else first.")
    benches = parser.add_subparsers(metavar="WHAT", required=True)
    for command in _COMMANDS:
        command.add_parser(benches)
