"""``underpaint generate``: prompts to PNG files, with a progress bar. Its options are the fields of the request."""

from __future__ import annotations

import argparse
import asyncio
import secrets
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import Field, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from underpaint.client.address import Address
from underpaint.client.async_client import AsyncClient
from underpaint.client.options import add_url
from underpaint.client.pictures import Picture
from underpaint.errors import InvalidArgument
from underpaint.front_door.outcome import Outcome
from underpaint.images import read_images
from underpaint.requests import GenerateRequest, python_type

# Fields that the command line says in another way: the prompt is its argument, the format that of the file, and a
# progress bar has no use for previews.
_NOT_OPTIONS = ("prompt", "output_format", "previews")
# How each type of field is written.
_KINDS: dict[type, dict[str, Any]] = {
    **{plain: {"type": plain} for plain in (str, int, float)},
    bool: {"action": "store_true", "default": None},
    np.ndarray: {"type": Path, "nargs": "+", "metavar": "FILE"},
}
_AT_ONCE = 16  # pictures under way; more would only wait at the server


@dataclass(frozen=True)
class Order:
    """One picture to be painted, and the file that it goes to."""

    wishes: Mapping[str, Any]
    path: Path


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "generate",
        help="paint pictures from a prompt",
        description="Paint pictures from a prompt. What is left open, the server chooses.",
    )
    parser.add_argument("prompt", help=_help(_request_fields()["prompt"]))
    parser.add_argument("-o", "--output", type=Path, metavar="FILE.png", help="default: SEED.png")
    parser.add_argument(
        "-n", "--count", type=int, default=1, help="pictures, whose consecutive seeds join the file names (default: 1)"
    )
    for name, declared in _request_fields().items():
        if name not in _NOT_OPTIONS:
            parser.add_argument(_option(name), help=_help(declared), **_KINDS[python_type(declared)])
    parser.add_argument("--timeout-s", type=float, help="give up after so many seconds (default: wait)")
    parser.add_argument("--json", action="store_true", help="print the server's report on each picture, a line each")
    add_url(parser)
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    orders = plan_orders(args)
    try:
        asyncio.run(_paint_all(args, orders))
    except KeyboardInterrupt:
        print("underpaint: withdrawn, here and on the server", file=sys.stderr)
        raise
    return 0


def plan_orders(args: argparse.Namespace) -> list[Order]:
    """What the arguments ask for, checked as far as that goes without a server.

    Raises:
        InvalidArgument: a value is out of range, or the pictures could not be written.
    """
    if args.count < 1:
        raise InvalidArgument.of("count", args.count, "1 or more")
    wishes = {name: getattr(args, name) for name in _request_fields() if name not in _NOT_OPTIONS}
    wishes = {name: value for name, value in wishes.items() if value is not None}
    if "control_image" in wishes:
        wishes["control_image"] = read_images("control_image", wishes["control_image"])
    first = wishes.pop("seed", None)
    if first is None:
        first = secrets.randbits(32)
    orders = [_order(args, wishes, seed) for seed in range(first, first + args.count)]
    for order in orders:
        GenerateRequest.parse({"prompt": args.prompt, **order.wishes})
        _check_writable(order.path)
    return orders


def _order(args: argparse.Namespace, wishes: Mapping[str, Any], seed: int) -> Order:
    mine = {**wishes, "seed": seed, "previews": False}
    if args.count > 1 and "request_id" in wishes:
        mine["request_id"] = f"{wishes['request_id']}-{seed}"
    return Order(mine, _path(args.output, seed, args.count))


def _path(output: Path | None, seed: int, count: int) -> Path:
    """Each of several pictures has its seed in its name."""
    if output is None:
        return Path(f"{seed}.png")
    return output if count == 1 else output.with_name(f"{output.stem}-{seed}{output.suffix}")


def _check_writable(path: Path) -> None:
    if path.is_dir():
        raise InvalidArgument.of("output", str(path), "a file; this is a folder")
    if path.suffix.lower() != ".png":
        raise InvalidArgument.of("output", str(path), "a name that ends in .png")
    if not path.parent.is_dir():
        raise InvalidArgument.of("output", str(path), f"a file in a folder that exists; {path.parent} does not")


# Painting -------------------------------------------------------------------------------------------------------


async def _paint_all(args: argparse.Namespace, orders: Sequence[Order]) -> None:
    """Paint side by side. The first failure, or Ctrl-C, withdraws whatever is under way."""
    turn = asyncio.Semaphore(_AT_ONCE)
    async with AsyncClient(args.url, timeout_s=args.timeout_s) as client:
        with _Bar(len(orders), shown=sys.stderr.isatty() and _streams(args.url)) as bar:
            try:
                async with asyncio.TaskGroup() as group:
                    for order in orders:
                        group.create_task(_paint(client, turn, bar, args, order))
            except ExceptionGroup as failed:
                raise failed.exceptions[0] from None


async def _paint(
    client: AsyncClient, turn: asyncio.Semaphore, bar: _Bar, args: argparse.Namespace, order: Order
) -> None:
    async with turn:
        started = time.monotonic()
        picture = await _picture(client, bar, args, order)
        _save(picture, order.path)
        _tell(picture, order.path, time.monotonic() - started, args.json)


async def _picture(client: AsyncClient, bar: _Bar, args: argparse.Namespace, order: Order) -> Picture:
    if not _streams(args.url):
        return await client.generate(args.prompt, **order.wishes)
    shown = 0
    async with aclosing(client.stream(args.prompt, **order.wishes)) as events:
        async for event in events:
            if isinstance(event, Picture):
                bar.advance(event.outcome.num_inference_steps - shown, event.outcome.num_inference_steps)
                return event
            bar.advance(event.step - shown, event.total)
            shown = event.step
    raise AssertionError("a stream ends with its picture or with an error")


def _save(picture: Picture, path: Path) -> None:
    try:
        picture.save(path)
    except OSError as error:
        raise InvalidArgument.of("output", str(path), f"a file that can be written ({error.strerror})") from None


def _streams(url: str) -> bool:
    return Address.parse(url).scheme == "grpc"


def _tell(picture: Picture, path: Path, seconds: float, as_json: bool) -> None:
    outcome = picture.outcome
    line = f"{path}  seed {outcome.seed}  {outcome.variant}, {steps_told(outcome)}  {seconds:.2f} s"
    tqdm.write(outcome.to_json() if as_json else line, file=sys.stdout)
    for warning in outcome.warnings:
        tqdm.write(f"underpaint: warning: {warning}", file=sys.stderr)


def steps_told(outcome: Outcome) -> str:
    """How many were run, what the others were spared by, and what acted on them."""
    steps, source = f"{outcome.steps_run} steps", outcome.source
    if source is not None:
        steps = f"{outcome.steps_run} of {outcome.num_inference_steps} steps, from entry {source.entry_id}"
    joined = [f"{use.name} from step {use.joined_at}" for use in outcome.loras if use.joined_at is not None]
    acted = [f"{use.name} in {use.steps}" for use in outcome.controlnets]
    return ", ".join([steps, *joined, *acted])


class _Bar:
    """One progress bar for all pictures of an order; they have equally many steps."""

    def __init__(self, pictures: int, shown: bool) -> None:
        self._pictures = pictures
        self._tqdm = tqdm(unit="step", leave=False, disable=not shown, dynamic_ncols=True)

    def advance(self, steps: int, steps_of_picture: int) -> None:
        self._tqdm.total = self._pictures * steps_of_picture
        self._tqdm.update(steps)

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *_: object) -> None:
        self._tqdm.close()


# The options ----------------------------------------------------------------------------------------------------


def _request_fields() -> dict[str, Field[Any]]:
    return {declared.name: declared for declared in fields(GenerateRequest)}


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


def _help(declared: Field[Any]) -> str:
    return str(declared.metadata["help"]).replace("%", "%%")  # argparse formats help texts
