"""``underpaint build`` and ``underpaint families``."""

from __future__ import annotations

import argparse
import shutil
from dataclasses import fields
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from underpaint.build.recipes import FamilyRecipe, VariantRecipe, load_recipe
from underpaint.build.repository import FAMILIES
from underpaint.errors import InvalidArgument

_BACKENDS = ("onnx", "tensorrt")
_GIB = 2**30


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    for module in ("torch", "diffusers", "transformers", "onnx"):
        if find_spec(module) is None:
            raise ModuleNotFoundError(f"the `build` extra is not installed: no {module}", name=module)
    _add_build(subparsers)
    _add_families(subparsers)


def find_recipe(family: str) -> FamilyRecipe:
    """A recipe by its name, or by the path of a file of one's own."""
    return load_recipe(Path(family) if family.endswith(".toml") else FAMILIES / f"{family}.toml")


# underpaint build -----------------------------------------------------------------------------------------------


def _add_build(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "build",
        help="make a model repository from checkpoints",
        description="Fetch a family's checkpoints, export every component, compare it with torch, and write a model "
        "repository. An interrupted build goes on where it was; until all is made, the repository stays as it is.",
    )
    parser.add_argument("family", help="a recipe's name (see `underpaint families list`), or a .toml file of your own")
    parser.add_argument("--backend", choices=_BACKENDS, default="onnx", help="what runs the graphs (default: onnx)")
    parser.add_argument(
        "--from",
        dest="sources",
        type=Path,
        action="append",
        default=[],
        metavar="DIR",
        help="a checkpoint in the hub's layout instead of the hub's own; once for each variant, in the recipe's order",
    )
    parser.add_argument("--repository", type=Path, help="default: model_repository_FAMILY")
    parser.add_argument(
        "--version", type=int, default=1, metavar="N", help="put it beside what is served, for `underpaint rollout`"
    )
    parser.add_argument("--dry-run", action="store_true", help="only say what would be made, and what that takes")
    parser.set_defaults(func=run_build)


def run_build(args: argparse.Namespace) -> int:
    recipe = find_recipe(args.family)
    repository = args.repository or Path(f"model_repository_{recipe.name}")
    from transformers.utils.logging import disable_progress_bar  # not at the top: torch takes seconds

    from underpaint.build.checkpoint import Checkpoint
    from underpaint.build.family import build
    from underpaint.build.fetch import fetch
    from underpaint.build.plan import plan_build
    from underpaint.build.plans import build_plans

    disable_progress_bar()  # of reading weights, which would stand between our lines
    if args.sources and len(args.sources) != len(recipe.variants):
        names = ", ".join(variant.name for variant in recipe.variants)
        raise InvalidArgument.of("--from", f"{len(args.sources)} folders", f"{len(recipe.variants)}, for {names}")
    folders = dict(zip((variant.name for variant in recipe.variants), args.sources, strict=False))
    checkpoints = {
        variant.name: Checkpoint(folders[variant.name]) if folders else fetch(variant, not args.dry_run)
        for variant in recipe.variants
    }
    plan = plan_build(recipe, checkpoints)
    _show_plan(plan, repository)
    if not args.dry_run:
        tell = partial(print, flush=True)
        build(plan, repository, fused=args.backend == "onnx", tell=tell, version=args.version)
        if args.backend == "tensorrt":
            build_plans(recipe, repository, tell)
    return 0


def _show_plan(plan: object, repository: Path) -> None:
    from underpaint.build.plan import Plan, replaced_scheduler, served_schedule

    assert isinstance(plan, Plan)
    for component in plan.components:
        twins = f", twins for LoRAs: {', '.join(component.twins)}" if component.twins else ""
        size = f"{component.parameters / 1e6:10.1f} M parameters {component.bytes / _GIB:8.2f} GiB"
        print(f"{component.name:<28} {size}  {str(component.dtype).removeprefix('torch.')}{twins}")
    for variant in plan.recipe.variants:
        checkpoint = plan.checkpoints[variant.name]
        if own := replaced_scheduler(variant, checkpoint):
            served = served_schedule(variant, checkpoint)["_class_name"]
            print(f"{variant.name}: paints with {served}; the checkpoint's own, {own}, is not served")
    place = next(each for each in (repository.absolute(), *repository.absolute().parents) if each.exists())
    print(
        f"disk {plan.disk_bytes / _GIB:.2f} GiB of {shutil.disk_usage(place).free / _GIB:.2f} free, "
        f"memory to build {plan.build_bytes / _GIB:.2f} GiB, to serve {plan.serving_bytes / _GIB:.2f} GiB of weights"
    )


# underpaint families --------------------------------------------------------------------------------------------


def _add_families(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser("families", help="the families that can be built")
    what = parser.add_subparsers(metavar="WHAT", required=True)
    what.add_parser("list", help="each with its variants").set_defaults(func=run_list)
    show = what.add_parser("show", help="everything that a recipe says")
    show.add_argument("family", help="a recipe's name, or a .toml file of your own")
    show.set_defaults(func=run_show)


def run_list(args: argparse.Namespace) -> int:
    for path in sorted(FAMILIES.glob("*.toml")):
        recipe = load_recipe(path)
        names = ", ".join(variant.name for variant in recipe.variants)
        print(f"{recipe.name:<16} {names} (small {recipe.small}, large {recipe.large})")
    return 0


def run_show(args: argparse.Namespace) -> int:
    recipe = find_recipe(args.family)
    print(f"{recipe.name}: small {recipe.small}, large {recipe.large}, refiner {recipe.refiner or recipe.small}")
    for variant in recipe.variants:
        print(f"\n{variant.name}")
        for each in fields(VariantRecipe):
            value = getattr(variant, each.name)
            if each.name != "name" and value not in ("", 0, {}):
                print(f"  {each.name:<22} {_shown(value)}")
    return 0


def _shown(value: object) -> str:
    if isinstance(value, tuple):
        return ", ".join(f"{width}x{height}" for width, height in value)
    return ", ".join(f"{key}={each}" for key, each in value.items()) if isinstance(value, dict) else str(value)
