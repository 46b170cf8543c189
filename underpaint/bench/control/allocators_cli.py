"""The command ``underpaint bench allocators``."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from statistics import median

from underpaint.bench.common import options
from underpaint.bench.common.machine import Machine
from underpaint.bench.common.progress import Progress
from underpaint.bench.common.report import about, leave, rounded, table
from underpaint.bench.control.allocators import DEVICES, Timing, cases, decisions, time_case
from underpaint.control.allocation import Form


def add_parser(benches: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    bench = benches.add_parser(
        "allocators",
        help="how long allocators take to decide",
        description="Milliseconds a decision, at 16 and at 128 devices, four variants and 726 configurations.",
    )
    bench.add_argument("--rounds", type=int, default=5, help="through eight loads each (default: 5)")
    bench.add_argument("--data", type=Path, metavar="DIR", help="folder with the published artifacts' files")
    options.add_report(bench)
    bench.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    options.at_least(args, rounds=1)
    machine = Machine.watched()
    todo = cases()
    timings: dict[tuple[str, Form, int], Timing] = {}
    with Progress(len(todo) * decisions(args.rounds)) as progress:
        for case in todo:
            progress.doing(f"{case.allocator}, {case.form}, {case.devices}")
            timings[case.allocator, case.form, case.devices] = time_case(case, args.data, args.rounds, progress.advance)
    print(text(timings))
    leave(rounded(_report(timings, machine, args), 3), args.json)
    return 0


def text(timings: dict[tuple[str, Form, int], Timing]) -> str:
    """A line a case."""
    lines = [("allocator", "form", "devices", "median ms", "worst ms", "processor ms")]
    for (name, form, devices), each in timings.items():
        processor = median(each.processor_ms)
        lines.append(
            (name, str(form), str(devices), f"{each.median_ms:.1f}", f"{max(each.wall_ms):.1f}", f"{processor:.1f}")
        )
    return table(lines)


def _report(
    timings: dict[tuple[str, Form, int], Timing], machine: Machine, args: argparse.Namespace
) -> dict[str, object]:
    """``solve_ms``: medians of the form that serves; everything by form below it."""
    names = list(dict.fromkeys(name for name, _, _ in timings))
    return {
        "solve_ms": {
            name: {str(devices): timings[name, Form.CORRECTED, devices].median_ms for devices in DEVICES}
            for name in names
        },
        "published_ms": {
            name: {str(devices): timings[name, Form.PUBLISHED, devices].median_ms for devices in DEVICES}
            for name in names
        },
        "processor_ms": {
            name: {str(devices): median(timings[name, Form.CORRECTED, devices].processor_ms) for devices in DEVICES}
            for name in names
        },
        "worst_ms": {
            name: {str(devices): max(timings[name, Form.CORRECTED, devices].wall_ms) for devices in DEVICES}
            for name in names
        },
        "decisions": {f"{name}, {form}, {devices}": asdict(each) for (name, form, devices), each in timings.items()},
        "configurations": "published" if args.data else "made up in the published shape",
        **about(machine, ("underpaint", "highspy", "numpy")),
    }
