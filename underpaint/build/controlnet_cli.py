"""``underpaint controlnet``: what ControlNets there are, and into the model repository with a new one.

A ControlNet is a model of the repository, so a server finds one as soon as it is there; nothing has to be restarted.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from underpaint.addons.residuals import EncoderShape
from underpaint.build.controlnet_configs import PREFIX, Controlled, controlnet
from underpaint.build.recipes import load_recipe
from underpaint.build.repository import FAMILIES
from underpaint.build.shapes import Shapes
from underpaint.build.variant_models import controlled
from underpaint.deployment import default_repository
from underpaint.errors import InvalidArgument, NotFound, Unsupported
from underpaint.triton import model_config as mc
from underpaint.wishes import check_controlnet_name

_CONFIG, _WEIGHTS = "config.json", "diffusion_pytorch_model.safetensors"
_GRAPH = "model.onnx"
_ABOUT = "The ControlNets that requests can name: models of the repository, which a running server finds at once."


@dataclass(frozen=True)
class Description:
    """A ControlNet as the list shows it; ``bases``: the variants that it fits, ``problem``: why it cannot be served."""

    name: str
    bytes: int
    bases: tuple[str, ...]
    problem: str | None = None


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser("controlnet", help="list, add and remove ControlNets", description=_ABOUT)
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    listing = actions.add_parser("list", help="those in the model repository, and for which variants they are")
    listing.add_argument("--json", action="store_true", help="as JSON")
    adding = actions.add_parser("add", help="check and export a ControlNetModel of diffusers")
    adding.add_argument("folder", type=Path, help=f"with {_CONFIG} and {_WEIGHTS}")
    adding.add_argument("--name", help="default: that of the folder")
    adding.add_argument("--replace", action="store_true", help="even if there is one of that name")
    removing = actions.add_parser("remove", help="out of the model repository")
    removing.add_argument("name")
    for action, func in ((listing, _list), (adding, _add), (removing, _remove)):
        action.add_argument("--repository", type=Path, default=None, help="default: model_repository")
        action.add_argument("--family", default="tiny", help="whose variants it is for (default: tiny)")
        action.set_defaults(func=func)


def _list(args: argparse.Namespace) -> int:
    repository = args.repository or default_repository()
    bases = _bases(args.family, repository)
    described = [
        _describe(path.parent.parent, bases, repository) for path in sorted(repository.glob(f"{PREFIX}*/1/{_CONFIG}"))
    ]
    if args.json:
        print(json.dumps([asdict(each) for each in described], indent=2))
        return 0
    for each in described:
        print(f"{each.name}  {each.bytes / 2**20:.2f} MiB  {each.problem or 'for ' + ', '.join(each.bases)}")
    if not described:
        print(f"no ControlNets in {repository}", file=sys.stderr)
    return 0


def _add(args: argparse.Namespace) -> int:
    repository = args.repository or default_repository()
    name = args.name or args.folder.resolve().name.removeprefix(PREFIX)
    check_controlnet_name(name)
    place = repository / f"{PREFIX}{name}"
    if place.exists() and not args.replace:
        raise InvalidArgument.of("name", name, f"one that is not in {repository} yet, or --replace")
    bases = _bases(args.family, repository)
    base = _fitting(name, _shape(args.folder), bases, repository)[0]
    with _finished_or_gone(repository, place) as unfinished:
        _export(args.folder, unfinished / "1", bases[base])
        text = mc.to_text(controlnet(place.name, bases[base], repository))
        (unfinished / "config.pbtxt").write_text(text)
    print(f"{place}  for {base}")
    return 0


def _remove(args: argparse.Namespace) -> int:
    check_controlnet_name(args.name)
    repository = args.repository or default_repository()
    place = repository / f"{PREFIX}{args.name}"
    if not place.is_dir():
        known = ", ".join(sorted(path.name.removeprefix(PREFIX) for path in repository.glob(f"{PREFIX}*")))
        raise NotFound(f"controlnet: there is no {args.name} in {repository}; there are: {known or 'none'}")
    shutil.rmtree(place)
    return 0


def _bases(family: str, repository: Path) -> dict[str, Controlled]:
    """The variants of a family that take ControlNets, by name."""
    recipe = load_recipe(FAMILIES / f"{family}.toml")
    bases = {v.name: controlled(v, Shapes.read(repository, v.name)) for v in recipe.variants if v.controlnets}
    if not bases:
        raise NotFound(f"no variant of {family} takes ControlNets")
    return {name: base for name, base in bases.items() if (repository / base.unet).is_dir()}


def _fitting(name: str, shape: EncoderShape, bases: Mapping[str, Controlled], repository: Path) -> list[str]:
    """The variants that a ControlNet fits. Raises InvalidArgument where it fits none."""
    shapes = {base: EncoderShape.load(repository / each.unet / "1") for base, each in bases.items()}
    fitting = [base for base, wanted in shapes.items() if wanted == shape]
    if not fitting:
        given = "; ".join(sorted({shape.unlike(wanted) for wanted in shapes.values()}))
        allowed = "; ".join(f"{wanted.unlike(shape)} for {base}" for base, wanted in shapes.items())
        raise InvalidArgument.of(f"ControlNet {name}", given, allowed)
    return fitting


def _shape(folder: Path) -> EncoderShape:
    """Of the ControlNetModel in a folder. Raises NotFound, Unsupported and InvalidArgument for what is none."""
    for name in (_CONFIG, _WEIGHTS):
        if not (folder / name).is_file():
            raise NotFound(f"controlnet: there is no {name} in {folder}")
    shape = EncoderShape.read(folder / _CONFIG)
    held = json.loads((folder / _CONFIG).read_text()).get("_class_name")
    if held != "ControlNetModel":
        raise Unsupported(f"controlnet: {folder} holds a {held}, not a ControlNetModel")
    return shape


def _export(folder: Path, out: Path, base: Controlled) -> None:
    """Read the weights, hold them to be sound, and write them with their graph."""
    import torch  # not at the top: a list should not take seconds
    from diffusers import ControlNetModel

    from underpaint.build.tiny.export import write_controlnet

    try:
        loaded = ControlNetModel.from_pretrained(folder, torch_dtype=torch.float32, local_files_only=True)
    except Exception as error:  # whatever safetensors and diffusers say of a damaged file
        allowed = f"a ControlNetModel that diffusers can load ({error})"
        raise InvalidArgument.of("ControlNet", str(folder), allowed) from None
    for key, weight in loaded.named_parameters():
        if not torch.isfinite(weight).all():
            raise InvalidArgument.of(f"ControlNet {folder}: {key}", "values that are not finite", "finite numbers")
    write_controlnet(out, loaded, base.latents, base.embeds, base.pixels)


@contextmanager
def _finished_or_gone(repository: Path, place: Path) -> Iterator[Path]:
    """A folder to write into, which takes its place when all is written: no server ever reads half of it."""
    unfinished = repository / f".{place.name}.part"
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    try:
        yield unfinished
        shutil.rmtree(place, ignore_errors=True)
        unfinished.rename(place)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _describe(folder: Path, bases: Mapping[str, Controlled], repository: Path) -> Description:
    name, version = folder.name.removeprefix(PREFIX), folder / "1"
    size = sum(path.stat().st_size for path in version.glob("*.safetensors"))
    try:
        fitting = _fitting(name, EncoderShape.read(version / _CONFIG), bases, repository)
    except InvalidArgument as error:
        return Description(name, size, (), str(error))
    if not (version / _GRAPH).is_file():
        return Description(name, size, (), f"{_GRAPH} is missing")
    return Description(name, size, tuple(fitting))
