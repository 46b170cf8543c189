"""``underpaint plans``: build a repository's TensorRT plans, or print what builds them. Needs no torch."""

from __future__ import annotations

import argparse
import sys
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from underpaint.build.recipes import load_recipe
from underpaint.build.repository import FAMILIES


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    if find_spec("onnx") is None:
        raise ModuleNotFoundError("the `tensorrt` extra is not installed: no onnx", name="onnx")
    parser = subparsers.add_parser(
        "plans",
        help="build TensorRT plans of a repository's graphs",
        description="Where trtexec and a GPU are, builds the plans and has the configs name them; elsewhere prints the "
        "trtexec lines. See docs/tensorrt.md.",
    )
    parser.add_argument("family", nargs="?", default="tiny", help="a recipe's name, or a .toml file (default: tiny)")
    parser.add_argument("--repository", type=Path, default=Path("model_repository"), help="default: model_repository")
    parser.add_argument("--check", action="store_true", help="only whether the plans are those of this machine")
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    from underpaint.build.plans import build_plans, check_plans

    path = Path(args.family) if args.family.endswith(".toml") else FAMILIES / f"{args.family}.toml"
    recipe, repository = load_recipe(path), args.repository.absolute()
    if not args.check:
        build_plans(recipe, repository, partial(print, flush=True))
        return 0
    wrong = check_plans(recipe, repository)
    for line in wrong:
        print(line, file=sys.stderr)
    return 1 if wrong else 0
