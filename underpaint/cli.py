"""The command ``underpaint``. Every room brings its own subcommands; only those asked for are imported in full."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

from underpaint import __version__
from underpaint.errors import UnderpaintError

# Modules with ``add_parser``; one whose extra is not installed is left out, and named when its command is asked for.
_ROOMS = (
    "underpaint.server.cli",
    "underpaint.client.cli",
    "underpaint.build.cli",
    "underpaint.bench.cli",
)
_TRAINERS = ("underpaint.build.tiny.cli",)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit code. Errors of ours end in one sentence, not in a traceback."""
    parser = argparse.ArgumentParser(prog="underpaint", description="Text-to-image diffusion on NVIDIA Triton.")
    parser.add_argument("--version", action="version", version=f"underpaint {__version__}")
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True)
    missing = _add_rooms(_ROOMS, subparsers)
    train = subparsers.add_parser("train", help="train a family of models from scratch")
    missing += _add_rooms(_TRAINERS, train.add_subparsers(metavar="FAMILY", required=True))
    if missing:
        parser.epilog = "Not available: " + "; ".join(missing)
    args = parser.parse_args(argv)
    try:
        return int(args.func(args) or 0)
    except UnderpaintError as error:
        print(f"underpaint: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        return 141


def _add_rooms(rooms: Sequence[str], subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> list[str]:
    missing = []
    for room in rooms:
        try:
            importlib.import_module(room).add_parser(subparsers)
        except ModuleNotFoundError as error:
            missing.append(f"{room.removeprefix('underpaint.').removesuffix('.cli')} commands (no module {error.name})")
    return missing


if __name__ == "__main__":
    sys.exit(main())
