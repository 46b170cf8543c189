"""Train the tiny family from scratch, export it to a model repository and evaluate it.

Without --only, everything in order. Every training goes on from its checkpoint, so a killed run is simply
started again; parts may also run side by side, each in a process of its own.
"""

from __future__ import annotations

import argparse
import logging
from importlib.util import find_spec
from pathlib import Path

from underpaint.errors import InvalidArgument

PARTS = (
    "tokenizer",
    "autoencoder-f4",
    "autoencoder-f8",
    "teacher",
    "tiny-m",
    "tiny-l",
    "tiny-s",
    "clip",
    "export",
    "router",
    "discriminator",
    "addons",
    "controlnets",
    "evaluate",
    "skills",
)


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    for module in ("torch", "diffusers", "transformers", "onnx"):
        if find_spec(module) is None:
            raise ModuleNotFoundError(f"the `build` extra is not installed: no {module}", name=module)
    parser = subparsers.add_parser("tiny", help="train the tiny family", description=__doc__)
    add_arguments(parser)
    parser.set_defaults(func=run)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--only", metavar="PART,…", help=f"some of: {', '.join(PARTS)}")
    parser.add_argument("--minutes", type=float, help="training time of each part, instead of its own")
    parser.add_argument("--out", type=Path, default=Path("runs/tiny"), help="checkpoints and caches")
    parser.add_argument("--repository", type=Path, default=Path("model_repository"), help="default: model_repository")
    parser.add_argument("--seed", type=int, default=0, help="default: 0")
    parser.add_argument("--threads", type=int, help="CPU threads; all cores by default")
    resuming = parser.add_mutually_exclusive_group()
    resuming.add_argument("--resume", dest="fresh", action="store_false", default=False, help="the default")
    resuming.add_argument("--fresh", action="store_true", help="ignore checkpoints")
    resuming.add_argument(
        "--from-exported",
        action="store_true",
        help="training goes on from the repository's weights, and export writes their graphs anew",
    )


def run(args: argparse.Namespace) -> int:
    names = args.only.split(",") if args.only else [name for name in PARTS if name != "skills"]
    unknown = [name for name in names if name not in PARTS]
    if unknown:
        raise InvalidArgument.of("--only", ",".join(unknown), ", ".join(PARTS))
    import torch  # not at the top: reading the command line should not take seconds

    from underpaint.build.tiny import workshop

    if not logging.root.handlers:
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    if args.threads:
        torch.set_num_threads(args.threads)
    place = workshop.Workshop(args.out, args.repository, args.seed, args.minutes, args.fresh, args.from_exported)
    for name in names:
        workshop.PARTS[name](place)
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m underpaint.build.tiny", description=__doc__)
    add_arguments(parser)
    return run(parser.parse_args())
