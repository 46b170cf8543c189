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
from underpaint.deployment import Deployment
from underpaint.errors import InvalidArgument, Unsupported
from underpaint.front_door.outcome import Timings

PROMPTS = (
    "a small red circle above a large striped blue square, on a yellow background",
    "a large yellow star in the centre, on a blue background",
    "a large pink heart left of a small white cross, on a purple background",
    "a large dotted green triangle on the right, on a white background",
    "a small orange diamond below a large cyan ring, on a black background",
    "on a pink background, a large black cross above a small red heart",
    "a large white ring on the left, green background",
    "a small blue square right of a large striped orange circle, on a cyan background",
)
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
        "--model-repository", type=Path, default=Path("model_repository"), help="default: model_repository"
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
    with _own_server(args.model_repository) as url:
        yield Target(url, args.variants or list(Deployment.load(args.model_repository / "generate" / "1").variants))


@contextmanager
def _own_server(repository: Path) -> Iterator[str]:
    try:
        from underpaint.server import EmbeddedServer, ServerOptions
    except ModuleNotFoundError as error:
        raise Unsupported(
            f"no {error.name} here to start a server with; pip install 'underpaint[embedded]', "
            "or name a running server with --url"
        ) from None
    _say("starting tritonserver …")
    started = time.monotonic()
    with EmbeddedServer(ServerOptions(repository, http_port=0, grpc_port=0, metrics_port=0)) as server:
        _say(f"ready at {server.grpc_url} after {time.monotonic() - started:.1f} s")
        yield server.grpc_url
        _say("stopping tritonserver …")


async def _paint_waves(target: Target) -> list[Wave]:
    pictures = len(PROMPTS) * len(target.variants)
    with tqdm(total=pictures, unit="picture", disable=not sys.stderr.isatty(), leave=False) as bar:
        async with AsyncClient(target.url) as client:
            await client.wait_ready()
            return [await _paint_wave(client, variant, bar) for variant in target.variants]


async def _paint_wave(client: AsyncClient, variant: str | None, bar: tqdm[None]) -> Wave:
    bar.set_description(variant or "server's choice")

    async def paint(seed: int, prompt: str) -> Picture:
        picture = await client.generate(prompt, seed=seed, variant=variant)
        bar.update()
        return picture

    started = time.monotonic()
    pictures = await asyncio.gather(*(paint(seed, prompt) for seed, prompt in enumerate(PROMPTS, start=1)))
    return Wave(tuple(pictures), time.monotonic() - started)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


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


def _cells(picture: Picture) -> list[str]:
    outcome = picture.outcome
    prompt = outcome.prompt if len(outcome.prompt) <= 48 else f"{outcome.prompt[:47]}…"
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
