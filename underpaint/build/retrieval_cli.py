"""``underpaint retrieval``: put the towers that look for similar pictures into a model repository."""

from __future__ import annotations

import argparse
from importlib.util import find_spec
from pathlib import Path

from underpaint.errors import NotFound


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    if find_spec("torch") is None:  # that open_clip is missing is said when it is needed
        raise ModuleNotFoundError("the `retrieval` extra is not installed: no torch", name="torch")
    parser = subparsers.add_parser(
        "retrieval",
        help="export a CLIP of open_clip's as embed_text and embed_image",
        description="Render the repository afterwards, by a recipe with clip = true and the model's name.",
    )
    parser.add_argument("repository", type=Path, help="a model repository")
    parser.add_argument("--model", default="ViT-L-14", help="as open_clip names it; default: %(default)s")
    parser.add_argument("--pretrained", default="openai", help="a tag of open_clip's, or a file; default: %(default)s")
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    from underpaint.build.retrieval import build_towers, load, write_tokenizer  # not at the top: torch takes seconds

    if not args.repository.is_dir():
        raise NotFound(f"there is no model repository at {args.repository}: build the family first")
    sizes = ((64, 64), (96, 64))  # to compare with; the image tower takes any
    loaded = load(args.model, args.pretrained)
    write_tokenizer(args.model, args.repository)
    for name, parity in build_towers(loaded, args.repository, sizes).items():
        print(f"{args.repository / name}: parity {parity if parity is None else f'{parity:.1e}'}")
    return 0
