"""What several benches can be told, and what they allow."""

from __future__ import annotations

import argparse
from pathlib import Path

from underpaint.deployment import default_repository
from underpaint.errors import InvalidArgument


def add_server(parser: argparse.ArgumentParser) -> None:
    """For those that measure on any server: a running one, or one of their own (see ``serving.site``)."""
    parser.add_argument("--url", help="use this running server (default: start one, with an empty cache)")
    add_repository(parser)


def add_repository(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model-repository", type=Path, default=default_repository(), help="default: that of underpaint serve"
    )


def add_report(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the full report there")


def at_least(args: argparse.Namespace, **least: int) -> None:
    """Raises InvalidArgument for the first of these options that is below its least."""
    for name, allowed in least.items():
        if getattr(args, name) < allowed:
            raise InvalidArgument.of(name.replace("_", "-"), getattr(args, name), f"{allowed} or more")


def above_zero(args: argparse.Namespace, *names: str) -> None:
    """Raises InvalidArgument for the first of these options that is not."""
    for name in names:
        if not getattr(args, name) > 0:
            raise InvalidArgument.of(name.replace("_", "-"), getattr(args, name), "above 0")


def listed(text: str) -> tuple[str, ...]:
    """Names with commas between, each once."""
    return tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
