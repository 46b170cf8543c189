"""``underpaint cache``: look into a store, and change it while no server has it open."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from underpaint.cache.entries import StoredEntry
from underpaint.cache.errors import CorruptFile
from underpaint.cache.location import default_store
from underpaint.cache.reader import StoreReader
from underpaint.cache.scope import tenant_of
from underpaint.cache.store import Departure, Store
from underpaint.cache.tables import Column, ago, count, size, table
from underpaint.cache.transfer import export_store, import_store
from underpaint.cache.verify import check, mend
from underpaint.errors import InvalidArgument, NotFound, Unavailable
from underpaint.images import to_png
from underpaint.requests import check_tenant

_DIFFERS = 1  # exit code of ``verify --check`` where something is wrong, and of ``clear`` where somebody said no


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "cache",
        help="look into the cache of painted images, and mend or empty it",
        description="Reading works beside a running server; for changes it must be stopped.",
    )
    actions = parser.add_subparsers(metavar="WHAT", required=True)
    _add_reading(actions)
    _add_changing(actions)


def _add_reading(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    _action(actions, "stats", run_stats, "how much is in it, by tenant", as_json=True)

    entries = _action(actions, "list", run_list, "the newest entries", as_json=True)
    entries.add_argument("--tenant", help="only of this tenant")
    entries.add_argument("--limit", type=int, default=20, metavar="N", help="default: 20; 0: all")

    show = _action(actions, "show", run_show, "all about one entry", as_json=True)
    show.add_argument("entry_id", type=int, metavar="ID")
    show.add_argument("--png", type=Path, metavar="FILE", help="write its image there")

    export = _action(actions, "export", run_export, "write entries to one file")
    export.add_argument("file", type=Path, metavar="FILE.zip")
    export.add_argument("--tenant", help="only of this tenant")


def _add_changing(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    for name, pinned, what in (("pin", True, "never evict an entry"), ("unpin", False, "let it be evicted again")):
        pin = _action(actions, name, run_pin, what)
        pin.add_argument("entry_id", type=int, metavar="ID")
        pin.set_defaults(pinned=pinned)

    clear = _action(actions, "clear", run_clear, "remove entries, pinned ones too")
    which = clear.add_mutually_exclusive_group(required=True)
    which.add_argument("--tenant", help="those of this tenant")
    which.add_argument("--scope", metavar="KEY", help="those of this scope, as 'show' names it")
    which.add_argument("--all", action="store_true", help="all")
    clear.add_argument("--yes", action="store_true", help="do not ask")

    taken_in = _action(actions, "import", run_import, "insert the entries of an exported file")
    taken_in.add_argument("file", type=Path, metavar="FILE.zip")

    verify = _action(actions, "verify", run_verify, "find what is damaged or left over, and mend it", as_json=True)
    verify.add_argument("--check", action="store_true", help="mend nothing; works beside a running server")


def _action(
    actions: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    run: Callable[[argparse.Namespace], int],
    what: str,
    as_json: bool = False,
) -> argparse.ArgumentParser:
    parser = actions.add_parser(name, help=what, description=f"{what[0].upper()}{what[1:]}.")
    parser.add_argument(
        "--store", type=Path, metavar="DIR", help="default: $UNDERPAINT_STORE, or else ~/.cache/underpaint"
    )
    if as_json:
        parser.add_argument("--json", action="store_true", help="print JSON, for programs")
    parser.set_defaults(func=run)
    return parser


# Reading --------------------------------------------------------------------------------------------------------


def run_stats(args: argparse.Namespace) -> int:
    with StoreReader(_folder(args)) as store:
        tenants = store.census()
    if args.json:
        return _print_json({"store": str(_folder(args)), "tenants": tenants})
    print(f"{_folder(args)}: {_entries(sum(each['entries'] for each in tenants))}")
    if tenants:
        names = ("entries", "pinned", "latents", "uses")
        columns = [Column("tenant"), *(Column(name, numbers=True) for name in (*names, "size", "oldest", "newest"))]
        now = time.time()
        rows = [
            [
                each["tenant"],
                *(count(each[name]) for name in names),
                size(each["bytes"]),
                *(ago(now - each[name]) for name in ("oldest_s", "newest_s")),
            ]
            for each in tenants
        ]
        print(table(columns, rows))
    return 0


def run_list(args: argparse.Namespace) -> int:
    if args.tenant is not None:
        check_tenant(args.tenant)
    if args.limit < 0:
        raise InvalidArgument.of("limit", args.limit, "0 or more")
    with StoreReader(_folder(args)) as store:
        entries = store.entries(args.tenant, args.limit or -1)
    if args.json:
        return _print_json([asdict(entry) for entry in entries])
    if not entries:
        print("nothing yet")
        return 0
    right = ("id", "when", "uses", "size")
    columns = [*(Column(name, numbers=True) for name in right), Column("tenant"), Column("variant")]
    columns += [Column("latents"), Column("generation", numbers=True), Column("prompt", gives=True)]
    print(table(columns, [_listed(entry) for entry in entries]))
    return 0


def run_show(args: argparse.Namespace) -> int:
    with StoreReader(_folder(args)) as store:
        entry = store.entry(args.entry_id)
        if args.png:
            _write_png(store, entry, args.png)
    if args.json:
        return _print_json(asdict(entry))
    shown = _shown(entry) | ({"image": args.png} if args.png else {})
    width = max(map(len, shown))
    for name, value in shown.items():
        print(f"{name:<{width}}  {value}")
    return 0


def run_export(args: argparse.Namespace) -> int:
    if args.tenant is not None:
        check_tenant(args.tenant)
    with StoreReader(_folder(args)) as store:
        written = export_store(store, args.file, args.tenant, _progress("exporting"))
    print(f"{args.file}: {_entries(written)}")
    return 0


# Changing -------------------------------------------------------------------------------------------------------


def run_pin(args: argparse.Namespace) -> int:
    with _writable(args) as store:
        if not store.pin(args.entry_id, args.pinned):
            raise NotFound(f"entry {args.entry_id} is not in the cache store {store.folder}, or no longer")
    print(f"entry {args.entry_id} {'stays' if args.pinned else 'may be evicted'}")
    return 0


def run_clear(args: argparse.Namespace) -> int:
    if args.tenant is not None:
        check_tenant(args.tenant)
    if args.scope is not None:
        tenant_of(args.scope)
    with _writable(args) as store:
        leaving = store.entry_ids(args.tenant, args.scope)
        if leaving and not args.yes and not _agreed(f"remove {_entries(len(leaving))} from {store.folder}?"):
            return _DIFFERS
        tell = _progress("removing")
        for begin in range(0, len(leaving), 500):
            store.remove([Departure(entry_id) for entry_id in leaving[begin : begin + 500]])
            tell(min(begin + 500, len(leaving)), len(leaving))
    print(f"{_entries(len(leaving))} removed")
    return 0


def run_import(args: argparse.Namespace) -> int:
    with Store(_folder(args)) as store:
        taken = import_store(store, args.file, _progress("importing"))
    print(f"{_entries(taken)} from {args.file}")
    return 0


def run_verify(args: argparse.Namespace) -> int:
    with StoreReader(_folder(args)) if args.check else _writable(args) as store:
        findings = check(store, _progress("verifying"))
        if isinstance(store, Store):
            mend(store, findings)
    if args.json:
        listed = [{"kind": each.kind, "what": each.what, "remedy": each.remedy} for each in findings]
        _print_json({"store": str(_folder(args)), "findings": listed, "mended": not args.check})
    else:
        for each in findings:
            print(f"{each.what}: {each.remedy}")
        state = "found" if args.check else "found and mended"
        faults = f"{count(len(findings))} {'fault' if len(findings) == 1 else 'faults'} {state}"
        print(f"{_folder(args)}: {faults if findings else 'all is well'}")
    return _DIFFERS if args.check and findings else 0


# Shared ---------------------------------------------------------------------------------------------------------


def _folder(args: argparse.Namespace) -> Path:
    return args.store or default_store()


def _writable(args: argparse.Namespace) -> Store:
    """A store that is there already: only ``import`` may begin one."""
    StoreReader(_folder(args)).close()
    return Store(_folder(args))


def _agreed(question: str) -> bool:
    if not sys.stdin.isatty():
        raise InvalidArgument.of("clear", "no terminal to ask at", "--yes")
    return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")


def _entries(number: int) -> str:
    return f"{count(number)} {'entry' if number == 1 else 'entries'}"


def _listed(entry: StoredEntry) -> Sequence[str]:
    return [
        str(entry.entry_id),
        ago(time.time() - entry.created_s),
        count(entry.uses),
        size(entry.file_bytes),
        entry.tenant,
        entry.variant,
        ",".join(map(str, entry.steps)) or "-",
        str(entry.generation),
        f"{'[pinned] ' if entry.pinned else ''}{' '.join(entry.prompt.split())}",
    ]


def _shown(entry: StoredEntry) -> dict[str, Any]:
    origin = f", from entry {entry.source}" if entry.source else ""
    more = {name: value for name, value in entry.metadata.items() if name not in vars(entry) and value}
    return {
        "entry": f"{entry.entry_id}{' (pinned)' if entry.pinned else ''}",
        "prompt": entry.prompt,
        "painted": f"{ago(time.time() - entry.created_s)}, {entry.variant}, seed {entry.seed}",
        "generation": f"{entry.generation}{origin}",
        "latents": f"{', '.join(map(str, entry.steps)) or 'none'} of {entry.num_inference_steps} steps",
        "uses": count(entry.uses),
        "size": size(entry.file_bytes),
        "tenant": entry.tenant,
        "image scope": entry.image_scope,
        "latents scope": entry.latents_scope or "-",
        **{name: value if isinstance(value, str) else json.dumps(value) for name, value in more.items()},
    }


def _write_png(store: StoreReader, entry: StoredEntry, path: Path) -> None:
    facts = {name: value for name, value in asdict(entry).items() if name != "metadata"}
    try:
        path.write_bytes(to_png(store.image(entry.entry_id), {**entry.metadata, **facts}))
    except CorruptFile as error:
        raise NotFound(f"{error}; 'underpaint cache verify' drops the entry") from None
    except OSError as error:
        raise Unavailable(f"cannot write {path}: {error.strerror}") from None


def _print_json(value: object) -> int:
    print(json.dumps(value, indent=2, ensure_ascii=False))
    return 0


def _progress(doing: str) -> Callable[[int, int], None]:
    """A line on a terminal that counts; nothing elsewhere."""
    last_s = 0.0

    def tell(done: int, of: int) -> None:
        nonlocal last_s
        now_s = time.monotonic()
        if sys.stderr.isatty() and (now_s - last_s > 0.1 or done == of):
            last_s = now_s
            print(f"\r{doing} {done:,} of {of:,}", end="\n" if done == of else "", file=sys.stderr, flush=True)

    return tell
