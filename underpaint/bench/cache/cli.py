"""The command ``underpaint bench cache``."""

from __future__ import annotations

import argparse
import csv
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from underpaint.bench.cache import words
from underpaint.bench.cache.kills import kill_rounds
from underpaint.bench.cache.lookups import CacheFigures, ServedFigures, measure, measure_served
from underpaint.bench.cache.served import served_cache
from underpaint.bench.cache.sizes import Served, replay
from underpaint.bench.cache.stored import INSERTS, LOOKUPS, QUERIES, SCOPES, Job
from underpaint.bench.common import options
from underpaint.bench.common.machine import Machine
from underpaint.bench.common.progress import Progress
from underpaint.bench.common.report import about, leave
from underpaint.cache.eviction import Strategy
from underpaint.cache.tables import Column, count, table
from underpaint.errors import InvalidArgument

_PACKAGES = ("underpaint", "faiss-cpu", "numpy")
_SIZES = (0.01, 0.03, 0.1, 0.3, 1.0)  # of a cache, as a share of the prompts
_LOST = 1  # exit code of --kill where an acknowledged entry is missing
_EXAMPLES = """examples:
  underpaint bench cache --entries 100000 --through-triton --json cache.json
  underpaint bench cache --kill 50
  underpaint bench cache --prompts prompts.txt
"""


def add_parser(benches: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = benches.add_parser(
        "cache",
        help="lookups and inserts at size, kill -9, or eviction strategies on real prompts",
        description="Measure the cache by itself. Say which of three.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--entries", type=int, metavar="N", help="time lookups and inserts among so many entries")
    which.add_argument("--kill", type=int, metavar="N", help="kill -9 a process that inserts, N times; count losses")
    which.add_argument("--prompts", type=Path, metavar="FILE", help="hit rate by size; .txt (a line each) or .csv")
    parser.add_argument("--dimension", type=int, default=512, help="of the embeddings of --entries (default: 512)")
    parser.add_argument(
        "--through-triton", action="store_true", help="of --entries: look up through an embedded tritonserver as well"
    )
    options.add_repository(parser)
    parser.add_argument("--column", default="Queries", help="of a .csv file of --prompts (default: Queries)")
    options.add_report(parser)
    parser.add_argument("--folder", type=Path, metavar="DIR", help="where to make stores (default: a temporary one)")
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    if args.entries is not None:
        return _run_entries(args)
    return _run_kills(args) if args.kill is not None else _run_prompts(args)


def _run_entries(args: argparse.Namespace) -> int:
    options.at_least(args, entries=SCOPES, dimension=128)
    job = Job(args.entries, args.dimension)
    machine = Machine.watched()
    with _folder(args) as folder:
        with Progress(job.measurements) as progress:
            figures = measure(job, folder, progress.advance)
        served = _measure_served(args.model_repository, job, folder) if args.through_triton else None
    _write(args, {**_flat(figures, served), **asdict(job), "scopes": SCOPES, "queries": QUERIES}, machine)
    print(_figures_text(job, figures, served))
    return 0


def _measure_served(repository: Path, job: Job, store: Path) -> ServedFigures:
    with served_cache(repository, store, job.entries + INSERTS) as cache, Progress(LOOKUPS) as progress:
        return measure_served(job, cache, progress.advance)


def _run_kills(args: argparse.Namespace) -> int:
    options.at_least(args, kill=1)
    with _folder(args) as folder, Progress(args.kill) as progress:
        kills = kill_rounds(folder, args.kill, progress.advance)
    _write(args, asdict(kills), Machine.here())
    print(
        f"{kills.rounds} kills, {kills.unfinished} of them inside an insert; {count(kills.acknowledged)} entries "
        f"acknowledged, {kills.lost} lost, {kills.faults} faults in the store"
    )
    return _LOST if kills.lost or kills.faults else 0


def _run_prompts(args: argparse.Namespace) -> int:
    prompts = _prompts(args.prompts, args.column)
    sizes = sorted({max(1, round(share * len(prompts))) for share in _SIZES})
    with Progress(len(prompts)) as progress:
        served = replay(words.embed(prompts), sizes, progress.advance)
    listed = [
        {"prompts": size, **{strategy.value: asdict(own) for strategy, own in by_strategy.items()}}
        for size, by_strategy in served.items()
    ]
    report = {"prompts": len(prompts), "file": args.prompts.name, "embedder": words.NAME, "sizes": listed}
    _write(args, report, Machine.here())
    print(f"{count(len(prompts))} prompts of {args.prompts.name}, by {words.NAME}")
    print("hit rate and steps saved, by eviction strategy, for a cache of so many prompts:")
    print(_served_text(served))
    return 0


def _prompts(path: Path, column: str) -> list[str]:
    """In order, blank lines left out. Raises InvalidArgument."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            if path.suffix == ".csv":
                prompts = [row[column] for row in csv.DictReader(file)]
            else:
                prompts = [line.strip() for line in file]
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidArgument.of("prompts", str(path), f"a text file that can be read ({error})") from None
    except KeyError:
        raise InvalidArgument.of("column", column, f"a column of {path}") from None
    kept = [prompt for prompt in prompts if prompt]
    if not kept:
        raise InvalidArgument.of("prompts", str(path), "a file with prompts in it")
    return kept


def _figures_text(job: Job, figures: CacheFigures, served: ServedFigures | None) -> str:
    columns = [Column(f"{count(job.entries)} entries, {SCOPES} scopes")]
    columns += [
        Column(title, numbers=True) for title in ("p50 ms", "p99 ms", "CPU p50", "CPU p99", "recall@1", "value")
    ]
    rows = [
        [
            f"lookup, {space}",
            f"{each.lookup_p50_ms:.2f}",
            f"{each.lookup_p99_ms:.2f}",
            f"{each.lookup_cpu_p50_ms:.2f}",
            f"{each.lookup_cpu_p99_ms:.2f}",
            f"{each.recall_at_1:.4f}",
            f"{each.value_recall:.5f}",
        ]
        for space, each in {"text to image": figures.image, "text to text": figures.text}.items()
    ]
    if served is not None:
        through = (f"{served.lookup_p50_ms:.2f}", f"{served.lookup_p99_ms:.2f}")
        rows.append(["the first, through Triton", *through, "", "", f"{served.recall_at_1:.4f}", ""])
    insert = (figures.insert_p50_ms, figures.insert_p99_ms)
    rows.append(["insert", *(f"{each:.2f}" for each in insert), "", f"{figures.insert_cpu_p99_ms:.2f}", "", ""])
    return (
        f"{table(columns, rows)}\n{figures.memory_mb:,.0f} MB of memory, {figures.database_mb:,.0f} MB of database; "
        f"answers {figures.start_s:.1f} s after its start, as fast as this after {figures.ready_s:.1f} s"
    )


def _served_text(served: Mapping[int, Mapping[Strategy, Served]]) -> str:
    columns = [Column("prompts", numbers=True), *(Column(strategy.value, numbers=True) for strategy in Strategy)]
    rows = [
        [count(size), *(f"{own.hit_rate:6.1%} {own.steps_saved:6.1%}" for own in by_strategy.values())]
        for size, by_strategy in served.items()
    ]
    return table(columns, rows)


def _flat(figures: CacheFigures, served: ServedFigures | None) -> dict[str, Any]:
    """The figures of text to image, which are those that count, come without a prefix."""
    raw = asdict(figures)
    image, text = raw.pop("image"), raw.pop("text")
    others = {"text": text, "triton": asdict(served) if served else {}}
    prefixed = {f"{what}_{name}": value for what, own in others.items() for name, value in own.items()}
    return {**image, **raw, **prefixed}


def _write(args: argparse.Namespace, report: Mapping[str, Any], machine: Machine) -> None:
    leave({**report, **about(machine, _PACKAGES)}, args.json)


@contextmanager
def _folder(args: argparse.Namespace) -> Iterator[Path]:
    """An empty folder, gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="underpaint-bench-", dir=args.folder) as folder:
        yield Path(folder)
