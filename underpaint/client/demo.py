"""``underpaint demo``: a server, eight prompts at once for every variant, a contact sheet, a table, and everything
gone again."""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from tqdm import tqdm

from underpaint.client.async_client import AsyncClient
from underpaint.client.contact_sheet import Row, contact_sheet
from underpaint.client.pictures import Picture
from underpaint.client.prompts import PROMPTS
from underpaint.client.serving import deployment_of, own_server
from underpaint.deployment import default_repository
from underpaint.errors import InvalidArgument
from underpaint.front_door.outcome import Timings

SHEET = "contact_sheet.png"


@dataclass(frozen=True, eq=False)
class Wave:
    """All prompts, painted at once by one variant. ``seconds``: from the first request to the last picture."""

    pictures: tuple[Picture, ...]
    seconds: float


@dataclass(frozen=True)
class Target:
    """A server, and the variants to show; None leaves the choice to the server."""

    url: str
    variants: Sequence[str | None]


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "demo",
        help="start a server, paint eight prompts at once, write a contact sheet",
        description="Start a server, paint eight prompts at once with every variant, and write a contact sheet.",
    )
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder for the contact sheet (default: out)")
    parser.add_argument("--url", help="use this running server (gRPC, host:port) instead of starting one")
    parser.add_argument(
        "--variant", action="append", dest="variants", help="show this variant; may be repeated (default: all)"
    )
    parser.add_argument(
        "--model-repository", type=Path, default=default_repository(), help="default: that of underpaint serve"
    )
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    if args.out.exists() and not args.out.is_dir():
        raise InvalidArgument.of("out", str(args.out), "a folder; this is a file")
    with _target(args) as target:
        waves = asyncio.run(_paint_waves(target))
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / SHEET
    contact_sheet("underpaint", PROMPTS, [_row(wave) for wave in waves]).save(path)
    print(table([picture for wave in waves for picture in wave.pictures]))
    print()
    for wave in waves:
        print(summary(wave))
    print(f"contact sheet: {path}")
    return 0


# Painting -------------------------------------------------------------------------------------------------------


@contextmanager
def _target(args: argparse.Namespace) -> Iterator[Target]:
    if args.url:
        yield Target(args.url, args.variants or [None])
        return
    with own_server(args.model_repository) as url:
        yield Target(url, args.variants or list(deployment_of(args.model_repository).variants))


async def _paint_waves(target: Target) -> list[Wave]:
    pictures = len(PROMPTS) * len(target.variants)
    with tqdm(total=pictures, unit="picture", disable=not sys.stderr.isatty(), leave=False) as bar:
        async with AsyncClient(target.url) as client:
            await client.wait_ready(timeout_s=10.0)
            return [await _paint_wave(client, variant, bar) for variant in target.variants]


async def _paint_wave(client: AsyncClient, variant: str | None, bar: tqdm[None]) -> Wave:
    async def paint(seed: int, prompt: str) -> Picture:
        picture = await client.generate(prompt, seed=seed, variant=variant)
        bar.update()
        return picture

    tqdm.write(
        f"painting {len(PROMPTS)} prompts at once with {variant or 'what the server chooses'} …", file=sys.stderr
    )
    started = time.monotonic()
    pictures = await asyncio.gather(*(paint(seed, prompt) for seed, prompt in enumerate(PROMPTS, start=1)))
    return Wave(tuple(pictures), time.monotonic() - started)


# Showing --------------------------------------------------------------------------------------------------------


def table(pictures: Sequence[Picture]) -> str:
    """A line a picture: what was asked for, and the milliseconds in each stage."""
    stages = [stage.name for stage in fields(Timings)]
    head = ["prompt", "variant", "seed", "steps", *stages]
    body = [_cells(picture) for picture in pictures]
    widths = [max(len(cells[i]) for cells in [head, *body]) for i in range(len(head))]
    aligned = "<<" + ">" * (len(head) - 2)
    lines = [
        "  ".join(f"{cell:{align}{width}}" for cell, align, width in zip(cells, aligned, widths, strict=True))
        for cells in [head, *body]
    ]
    return "\n".join([" " * (len(lines[0]) - len(_UNIT)) + _UNIT, *lines])


_UNIT = "milliseconds in each stage"
_PROMPT = 44  # characters of it in the table


def _cells(picture: Picture) -> list[str]:
    outcome = picture.outcome
    prompt = outcome.prompt if len(outcome.prompt) <= _PROMPT else f"{outcome.prompt[: _PROMPT - 1]}…"
    stages = [f"{ms:.1f}" for ms in astuple(outcome.timings_ms)]
    return [prompt, outcome.variant, str(outcome.seed), str(outcome.steps_run), *stages]


def summary(wave: Wave) -> str:
    count = len(wave.pictures)
    rate = count / wave.seconds
    variant = wave.pictures[0].outcome.variant
    return f"{variant}: {count} pictures at once in {wave.seconds:.2f} s, {rate:.1f} a second"


def _row(wave: Wave) -> Row:
    outcome = wave.pictures[0].outcome
    return Row(outcome.variant, f"{outcome.steps_run} steps", [picture.image for picture in wave.pictures])
