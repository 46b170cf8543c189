"""``underpaint render``: write a model repository's configs, adapters and ensembles from a recipe."""

from __future__ import annotations

import argparse
from pathlib import Path

from underpaint.build.recipes import load_recipe
from underpaint.build.repository import FAMILIES, render, write


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "render",
        help="write config.pbtxt, model.py and ensembles of a model repository from its recipe",
        description="Needs the components (graphs and their config.json) to be in the repository already.",
    )
    parser.add_argument("family", nargs="?", default="tiny", help="name of a recipe in build/families (default: tiny)")
    parser.add_argument("--repository", type=Path, default=Path("model_repository"), help="default: model_repository")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if anything would change")
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    files = render(load_recipe(FAMILIES / f"{args.family}.toml"), args.repository)
    stale = [name for name, text in files.items() if _present(args.repository / name) != text]
    if not args.check:
        write(files, args.repository)
    for name in stale:
        print(f"{'differs' if args.check else 'wrote'}: {args.repository / name}")
    return 1 if args.check and stale else 0


def _present(path: Path) -> str | None:
    return path.read_text() if path.is_file() else None
