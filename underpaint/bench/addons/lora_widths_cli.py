"""``underpaint bench lora-widths``: options and the report."""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import asdict
from pathlib import Path

from underpaint.bench.addons import lora_widths
from underpaint.bench.common import options
from underpaint.bench.common.machine import Machine, now, versions
from underpaint.errors import InvalidArgument


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "lora-widths", help="what LoRAs cost, by the width of the network", description=lora_widths.__doc__
    )
    parser.add_argument("--rounds", type=int, default=9, help="calls of each (default: 9)")
    options.add_report(parser)
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    if args.rounds < 1:
        raise InvalidArgument.of("--rounds", args.rounds, "1 or more")
    machine = Machine.here()
    machine.warn_if_busy()
    costs = []
    for width in lora_widths.WIDTHS:
        with tempfile.TemporaryDirectory(prefix="underpaint-widths-") as folder:
            cost = lora_widths.measure(width, Path(folder), args.rounds)
        channels = "-".join(map(str, cost.channels))
        print(
            f"{channels}: {cost.unet_ms:.0f} ms, with LoRAs {cost.overhead:+.1%}, arithmetic {cost.arithmetic:+.1%}",
            flush=True,
        )
        costs.append({**asdict(cost), "overhead": cost.overhead})
    if args.json:
        told = {"rows": lora_widths.ROWS, "rank": lora_widths.RANK, "machine": asdict(machine)}
        report = {"widths": costs, **told, "versions": versions(), "measured_at": now()}
        args.json.write_text(json.dumps(report, indent=2) + "\n")
    return 0
