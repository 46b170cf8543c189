"""``underpaint lora``: what LoRAs there are, and into the store with a new one, if a served variant can use it."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from underpaint.addons.layout import FILE_NAME, LoraLayout
from underpaint.addons.location import VARIABLE, lora_sources
from underpaint.addons.lora import Lora, read_lora
from underpaint.addons.sources import (
    SUFFIX,
    File,
    Limits,
    download,
    fetch,
    folders,
    missing,
    names,
    read_adapter_config,
)
from underpaint.deployment import default_repository
from underpaint.errors import InvalidArgument, NotFound, UnderpaintError
from underpaint.wishes import check_lora_name

_UNET = "_unet"
_ABOUT = "The LoRAs that requests can name. What is added is checked: whom it fits, and that its numbers are sound."


@dataclass(frozen=True)
class Description:
    """A LoRA as the list shows it. ``parts``: what it changes; ``problem``: why no variant can use it."""

    name: str
    bytes: int
    bases: tuple[str, ...] = ()
    rank: int | None = None
    parts: tuple[str, ...] = ()
    fingerprint: str = ""
    problem: str | None = None


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser("lora", help="list, add and remove LoRAs", description=_ABOUT)
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    listing = actions.add_parser("list", help="those in all folders that a server looks in, and whether they are sound")
    listing.add_argument("--json", action="store_true", help="as JSON")
    adding = actions.add_parser("add", help="check a file of diffusers, PEFT or Kohya, and put it into the store")
    adding.add_argument("file", help="a path, a URL that fsspec can open, or hf://ORG/REPO, a repository of the hub")
    adding.add_argument("--name", help="default: that of the file")
    adding.add_argument("--replace", action="store_true", help="even if there is one of that name")
    adding.add_argument("--max-mb", type=float, default=1024.0, help="the largest file to take (default: 1024)")
    adding.add_argument("--timeout-s", type=float, default=60.0, help="of a download (default: 60)")
    removing = actions.add_parser("remove", help="out of the store")
    removing.add_argument("name")
    for action, func in ((listing, _list), (adding, _add), (removing, _remove)):
        action.add_argument("--repository", type=Path, default=None, help="default: model_repository")
        action.add_argument("--store", type=Path, help=f"default: the first folder in ${VARIABLE}, else addons/lora")
        action.set_defaults(func=func)


def _list(args: argparse.Namespace) -> int:
    sources, bases = _sources(args), _bases(args)
    described = [_describe(name, sources, bases) for name in names(sources)]
    if args.json:
        print(json.dumps([asdict(each) for each in described], indent=2))
        return 0
    for each in described:
        told = each.problem or f"rank {each.rank}, {' + '.join(each.parts)}, for {', '.join(each.bases)}"
        print(f"{each.name}  {each.bytes / 2**20:.2f} MiB  {told}")
    afar = [source for source in sources if "://" in source]
    if afar:
        print(f"those in {', '.join(afar)} cannot be listed", file=sys.stderr)
    elif not described:
        print(f"no LoRAs in {', '.join(sources)}", file=sys.stderr)
    return 0


def _add(args: argparse.Namespace) -> int:
    store, name = _store(args), args.name or Path(args.file).stem
    check_lora_name(name)
    path = store / f"{name}{SUFFIX}"
    if path.exists() and not args.replace:
        raise InvalidArgument.of("name", name, f"one that is not in {store} yet, or --replace")
    file = _file(args, name)
    _, fits = _read(name, file, _bases(args))
    store.mkdir(parents=True, exist_ok=True)
    if file.adapter_config is not None:
        _write(store / f"{name}.json", json.dumps(file.adapter_config).encode())
    else:
        (store / f"{name}.json").unlink(missing_ok=True)  # that of the one that is replaced
    _write(path, file.content)
    print(f"{path}  for {', '.join(fits)}")
    return 0


def _remove(args: argparse.Namespace) -> int:
    check_lora_name(args.name)
    store = _store(args)
    path = store / f"{args.name}{SUFFIX}"
    if not path.is_file():
        raise missing(args.name, [str(store)])
    path.unlink()
    (store / f"{args.name}.json").unlink(missing_ok=True)
    return 0


def _sources(args: argparse.Namespace) -> tuple[str, ...]:
    """Where a server that is started like this looks; or the one folder that is named."""
    return lora_sources(args.repository or default_repository()) if args.store is None else (str(args.store),)


def _store(args: argparse.Namespace) -> Path:
    """The folder that is written to; what lies behind URLs is not ours to change."""
    writable = folders(_sources(args))
    if not writable:
        raise InvalidArgument.of("store", os.environ.get(VARIABLE), f"a folder, with --store or in ${VARIABLE}")
    return writable[0]


def _bases(args: argparse.Namespace) -> dict[str, dict[str, LoraLayout]]:
    """The layouts of every variant that takes LoRAs, by its name."""
    repository = args.repository or default_repository()
    bases = {}
    for path in sorted(repository.glob(f"*{_UNET}/1/{FILE_NAME}")):
        variant = path.parents[1].name.removesuffix(_UNET)
        layouts = {"unet": LoraLayout.load(path.parent)}
        encoder = repository / f"{variant}_text_encoder" / "1"
        if (encoder / FILE_NAME).is_file():
            layouts["text_encoder"] = LoraLayout.load(encoder)
        bases[variant] = layouts
    if not bases:
        raise NotFound(f"no variant in {repository} takes LoRAs")
    return bases


def _file(args: argparse.Namespace, name: str) -> File:
    """What is to be added, with PEFT's config where it lies beside it."""
    limits = Limits(int(args.max_mb * 2**20), args.timeout_s)
    if "://" in args.file:
        return download(name, args.file, limits)
    path = Path(args.file)
    if not path.is_file():
        raise NotFound(f"lora: there is no file {path}")
    if path.stat().st_size > limits.max_bytes:
        raise InvalidArgument.of(f"LoRA {name}", f"{path.stat().st_size} bytes", f"at most {limits.max_bytes}")
    config = path.with_name("adapter_config.json")
    return File(path.read_bytes(), read_adapter_config(config) if config.is_file() else None)


def _read(name: str, file: File, bases: Mapping[str, Mapping[str, LoraLayout]]) -> tuple[Lora, tuple[str, ...]]:
    """The LoRA, and the variants that it fits. Raises the complaint of the first where it fits none."""
    fits: dict[str, Lora] = {}
    complaints: list[UnderpaintError] = []
    for variant, layouts in bases.items():
        try:
            fits[variant] = read_lora(name, file.content, layouts, file.adapter_config)
        except UnderpaintError as error:
            complaints.append(error)
    if not fits:
        raise complaints[0]
    return next(iter(fits.values())), tuple(fits)


def _describe(name: str, sources: Sequence[str], bases: Mapping[str, Mapping[str, LoraLayout]]) -> Description:
    path = next(path for path in (folder / f"{name}{SUFFIX}" for folder in folders(sources)) if path.exists())
    size = path.stat().st_size
    try:
        lora, fits = _read(name, fetch(name, [str(path.parent)], Limits()), bases)
    except UnderpaintError as error:
        return Description(name, size, problem=str(error))
    narrow = bases[fits[0]]["unet"].narrow_width
    parts = ["attention" if lora.unet.shape[1] == narrow else "all layers"] if lora.unet is not None else []
    parts += ["text encoder"] if lora.text_encoder is not None else []
    return Description(name, size, fits, lora.rank, tuple(parts), lora.fingerprint)


def _write(path: Path, content: bytes) -> None:
    """Beside its place, then over it: a server never reads half of it."""
    unfinished = path.with_suffix(".part")
    unfinished.write_bytes(content)
    unfinished.replace(path)
