"""``underpaint demo``: a server, eight prompts at once for every variant, then eight similar ones that start from
what has been painted, one with add-ons, contact sheets, tables, and everything gone again."""

from __future__ import annotations

import argparse
import asyncio
import secrets
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from tempfile import TemporaryDirectory

from tqdm import tqdm

from underpaint.client.addon_demo import AddonWave, paint_addons, save
from underpaint.client.async_client import AsyncClient
from underpaint.client.contact_sheet import Row, contact_sheet
from underpaint.client.pictures import Picture
from underpaint.client.prompts import PROMPTS, SIMILAR_PROMPTS
from underpaint.client.serving import deployment_of, own_server
from underpaint.deployment import default_repository
from underpaint.errors import InvalidArgument
from underpaint.front_door.outcome import Outcome, Timings

Paint = Callable[[str, int], Awaitable[Picture]]  # prompt and seed

SHEET, REUSE_SHEET = "contact_sheet.png", "reuse.png"
_POLICY = "modm"
_EASY = "easy"  # enough for the small variant, see ``evidence.Miss``
_REMEMBERED_WITHIN_S = 4.0  # images go into the cache after they have been sent


@dataclass(frozen=True, eq=False)
class Wave:
    """All prompts, painted at once by one variant. ``seconds``: from the first request to the last picture."""

    pictures: tuple[Picture, ...]
    seconds: float


@dataclass(frozen=True, eq=False)
class Reuse:
    """Prompts that a policy met with an empty cache, and similar ones that it met afterwards."""

    first: Wave
    similar: Wave


@dataclass(frozen=True)
class Target:
    """A server, and the variants to show; None leaves the choice to the server."""

    url: str
    variants: Sequence[str | None]


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "demo",
        help="start a server, paint eight prompts and eight similar ones, write contact sheets",
        description="Start a server, paint eight prompts at once with every variant, then eight similar ones with "
        f"policy {_POLICY}, which starts from what has been painted; write contact sheets.",
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
        waves, reuse, addons = asyncio.run(_paint_waves(target))
    args.out.mkdir(parents=True, exist_ok=True)
    contact_sheet("underpaint", PROMPTS, [_row(wave) for wave in waves]).save(args.out / SHEET)
    contact_sheet(f"{_POLICY}: similar prompts", _captions(reuse.similar), _reuse_rows(reuse)).save(
        args.out / REUSE_SHEET
    )
    print(table([picture for wave in waves for picture in wave.pictures]))
    print()
    print(reuse_table(reuse.similar.pictures))
    print()
    for wave in waves:
        print(summary(wave))
    print(reuse_summary(reuse.similar, waves[0]))  # the largest comes first
    print(save(addons, args.out))
    print(f"contact sheets: {args.out / SHEET}, {args.out / REUSE_SHEET}")
    return 0


# Painting -------------------------------------------------------------------------------------------------------


@contextmanager
def _target(args: argparse.Namespace) -> Iterator[Target]:
    if args.url:
        yield Target(args.url, args.variants or [None])
        return
    store = TemporaryDirectory(prefix="underpaint-demo-")
    with store as folder, own_server(args.model_repository, Path(folder)) as url:
        yield Target(url, args.variants or list(deployment_of(args.model_repository).variants))


async def _paint_waves(target: Target) -> tuple[list[Wave], Reuse, AddonWave | str]:
    pictures = len(PROMPTS) * len(target.variants) + len(PROMPTS) + len(SIMILAR_PROMPTS)
    with tqdm(total=pictures, unit="picture", disable=not sys.stderr.isatty(), leave=False) as bar:
        async with AsyncClient(target.url) as client:
            await client.wait_ready(timeout_s=10.0)
            waves = [await _paint_variant(client, variant, bar) for variant in target.variants]
            reuse = await _paint_similar(client, bar)
            _say("painting with a ControlNet and a LoRA …")
            return waves, reuse, await paint_addons(client, waves[0].pictures[0].outcome.variant)


async def _paint_variant(client: AsyncClient, variant: str | None, bar: tqdm[None]) -> Wave:
    _say(f"painting {len(PROMPTS)} prompts at once with {variant or 'what the server chooses'} …")
    return await _paint_wave(lambda prompt, seed: client.generate(prompt, seed=seed, variant=variant), PROMPTS, bar)


async def _paint_similar(client: AsyncClient, bar: tqdm[None]) -> Reuse:
    """In a cache of its own, which nobody else has put anything into."""
    tenant = f"demo-{secrets.token_hex(4)}"

    def paint(prompt: str, seed: int) -> Awaitable[Picture]:
        return client.generate(prompt, seed=seed, policy=_POLICY, tenant=tenant)

    _say(f"painting {len(PROMPTS)} prompts with policy {_POLICY} …")
    first = await _paint_wave(paint, PROMPTS, bar)
    await asyncio.sleep(_REMEMBERED_WITHIN_S)
    _say(f"painting {len(SIMILAR_PROMPTS)} similar prompts …")
    return Reuse(first, await _paint_wave(paint, SIMILAR_PROMPTS, bar))


async def _paint_wave(paint: Paint, prompts: Sequence[str], bar: tqdm[None]) -> Wave:
    async def one(seed: int, prompt: str) -> Picture:
        picture = await paint(prompt, seed)
        bar.update()
        return picture

    started = time.monotonic()
    pictures = await asyncio.gather(*(one(seed, prompt) for seed, prompt in enumerate(prompts, start=1)))
    return Wave(tuple(pictures), time.monotonic() - started)


def _say(text: str) -> None:
    tqdm.write(text, file=sys.stderr)


# Showing --------------------------------------------------------------------------------------------------------


def table(pictures: Sequence[Picture]) -> str:
    """A line a picture: what was asked for, and the milliseconds in each stage that took any."""
    timings = [picture.outcome.timings_ms for picture in pictures]
    stages = [stage.name for stage in fields(Timings) if any(getattr(one, stage.name) for one in timings)]
    head = ["prompt", "variant", "seed", "steps", *stages]
    body = [_cells(picture, stages) for picture in pictures]
    widths = [max(len(cells[i]) for cells in [head, *body]) for i in range(len(head))]
    aligned = "<<" + ">" * (len(head) - 2)
    lines = [
        "  ".join(f"{cell:{align}{width}}" for cell, align, width in zip(cells, aligned, widths, strict=True))
        for cells in [head, *body]
    ]
    return "\n".join([" " * (len(lines[0]) - len(_UNIT)) + _UNIT, *lines])


_UNIT = "milliseconds in each stage"
_PROMPT = 44  # characters of it in the table


def _cells(picture: Picture, stages: Sequence[str]) -> list[str]:
    outcome = picture.outcome
    prompt = _shortened(outcome.prompt)
    times = [f"{getattr(outcome.timings_ms, stage):.1f}" for stage in stages]
    return [prompt, outcome.variant, str(outcome.seed), str(outcome.steps_run), *times]


def _shortened(prompt: str) -> str:
    return prompt if len(prompt) <= _PROMPT else f"{prompt[: _PROMPT - 1]}…"


def summary(wave: Wave) -> str:
    count = len(wave.pictures)
    rate = count / wave.seconds
    variant = wave.pictures[0].outcome.variant
    return f"{variant}: {count} pictures at once in {wave.seconds:.2f} s, {rate:.1f} a second"


def reuse_table(pictures: Sequence[Picture]) -> str:
    """A line a picture: what was asked for, and what it was made from."""
    return "\n".join(
        f"{_shortened(picture.outcome.prompt):<{_PROMPT}}  {origin(picture.outcome)}" for picture in pictures
    )


def origin(outcome: Outcome) -> str:
    """What an image was made from, in a few words."""
    if outcome.source is None:
        reason = f" ({outcome.miss})" if outcome.miss else ""
        return f"miss{reason}: {outcome.variant} from noise, {outcome.steps_run} steps"
    return (
        f"hit at {outcome.source.similarity:.2f}: {outcome.variant} skips {outcome.steps_skipped} of "
        f"{outcome.num_inference_steps} steps, from: {outcome.source.prompt}"
    )


def reuse_summary(similar: Wave, large: Wave) -> str:
    """Of similar prompts that a policy met, beside as many that the large variant painted in full."""
    count, outcomes = len(similar.pictures), [picture.outcome for picture in similar.pictures]
    hits, easy = sum(each.source is not None for each in outcomes), sum(each.miss == _EASY for each in outcomes)
    speed = count / similar.seconds / (len(large.pictures) / large.seconds)
    return (
        f"{_POLICY}: {hits} of {count} similar prompts start from a cached picture, {easy} more are easy enough for "
        f"the small variant; {speed:.1f} times as fast as {large.pictures[0].outcome.variant} paints in full"
    )


def _captions(wave: Wave) -> list[str]:
    """The prompt, and whether it was a hit."""
    return [f"{picture.outcome.prompt} ({_mark(picture.outcome)})" for picture in wave.pictures]


def _mark(outcome: Outcome) -> str:
    if outcome.source is not None:
        return f"hit, {outcome.source.similarity:.2f}"
    return _EASY if outcome.miss == _EASY else "miss"


def _reuse_rows(reuse: Reuse) -> list[Row]:
    """Each source above what was made from it."""
    painted = {(p.outcome.prompt, p.outcome.seed): p.image for p in (*reuse.first.pictures, *reuse.similar.pictures)}
    sources = [p.outcome.source for p in reuse.similar.pictures]
    return [
        Row("source", "", [painted.get((s.prompt, s.seed)) if s else None for s in sources], "noise"),
        Row("result", _POLICY, [picture.image for picture in reuse.similar.pictures]),
    ]


def _row(wave: Wave) -> Row:
    outcome = wave.pictures[0].outcome
    return Row(outcome.variant, f"{outcome.steps_run} steps", [picture.image for picture in wave.pictures])
