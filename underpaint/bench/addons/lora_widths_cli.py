"""``underpaint bench lora-widths``: options and the report."""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import asdict
from pathlib import Path

from underpaint.bench.addons import lora_widths
from underpaint.bench.common import options
from underpaint.bench.common.machine import Machine
from underpaint.bench.common.report import about, leave


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "lora-widths", help="what LoRAs cost, by the width of the network", description=lora_widths.__doc__
    )
    parser.add_argument("--rounds", type=int, default=9, help="calls of each (default: 9)")
    options.add_report(parser)
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    options.at_least(args, rounds=1)
    machine = Machine.watched()
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
    leave({"widths": costs, "rows": lora_widths.ROWS, "rank": lora_widths.RANK, **about(machine)}, args.json)
    return 0
