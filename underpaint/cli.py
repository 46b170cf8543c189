"""The command ``underpaint``. Every room brings its own subcommands."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from underpaint import __version__
from underpaint.errors import UnderpaintError, Unsupported


@dataclass(frozen=True)
class Room:
    """A module with ``add_parser``, its commands, and the extra that brings what it imports."""

    module: str
    extra: str
    commands: tuple[str, ...]


_ROOMS = (
    Room("underpaint.server.cli", "embedded", ("serve",)),
    Room("underpaint.client.cli", "client", ("generate", "cancel", "policies", "inspect", "demo")),
    Room("underpaint.cache.cli", "serve", ("cache",)),
    Room("underpaint.addons.cli", "serve", ("lora",)),
    Room("underpaint.build.cli", "build", ("render",)),
    Room("underpaint.build.build_cli", "build", ("build", "families")),
    Room("underpaint.build.plans_cli", "tensorrt", ("plans",)),
    Room("underpaint.build.controlnet_cli", "build", ("controlnet",)),
    Room("underpaint.monitor.cli", "control", ("monitor",)),
    Room("underpaint.build.retrieval_cli", "retrieval", ("retrieval",)),
    Room("underpaint.rollout.cli", "embedded", ("rollout",)),
    Room("underpaint.bench.cli", "embedded", ("bench",)),
    Room("underpaint.bench.calibration.cli", "embedded", ("calibrate",)),
    Room("underpaint.bench.control.profile_cli", "embedded", ("profile",)),
    Room("underpaint.bench.control.simulate_cli", "control", ("simulate",)),
)
_EVALUATORS = (Room("underpaint.bench.models.cli", "bench", ("variants",)),)
_TRAINERS = (Room("underpaint.build.tiny.cli", "build", ("tiny",)),)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit code. Errors of ours end in one sentence, not in a traceback."""
    parser = argparse.ArgumentParser(prog="underpaint", description="Text-to-image diffusion on NVIDIA Triton.")
    parser.add_argument("--version", action="version", version=f"underpaint {__version__}")
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True)
    _add_rooms(_ROOMS, subparsers)
    evaluate = subparsers.add_parser("eval", help="how good the models are")
    _add_rooms(_EVALUATORS, evaluate.add_subparsers(metavar="WHAT", required=True))
    train = subparsers.add_parser("train", help="train a family of models from scratch")
    _add_rooms(_TRAINERS, train.add_subparsers(metavar="FAMILY", required=True))
    args, unknown = parser.parse_known_args(argv)
    if unknown and args.func is not _explain:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    try:
        return int(args.func(args) or 0)
    except UnderpaintError as error:
        print(f"underpaint: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        return 141


def _add_rooms(rooms: Sequence[Room], subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    for room in rooms:
        try:
            importlib.import_module(room.module).add_parser(subparsers)
        except ModuleNotFoundError as error:
            if (error.name or "").startswith("underpaint"):
                raise  # a defect of ours, not something that is not installed
            _add_stubs(room, str(error.name), subparsers)


def _add_stubs(room: Room, missing: str, subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Commands that say what they need, where it is not installed."""
    needed = f"needs {missing}: pip install 'underpaint[{room.extra}]'"
    for command in room.commands:
        stub = subparsers.add_parser(command, help=needed, add_help=False)
        stub.add_argument("rest", nargs="*")
        stub.set_defaults(func=_explain, needed=needed)


def _explain(args: argparse.Namespace) -> int:
    raise Unsupported(args.needed)


if __name__ == "__main__":
    sys.exit(main())
