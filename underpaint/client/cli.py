"""The commands that talk to a server: ``generate``, ``cancel``, ``demo``; and those that explain: ``policies``,
``inspect``."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from PIL import UnidentifiedImageError

from underpaint.client import demo, generate_command
from underpaint.client.options import add_url
from underpaint.client.sync_client import Client
from underpaint.errors import InvalidArgument, NotFound
from underpaint.images import read_metadata
from underpaint.policies import POLICIES, Policy


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    generate_command.add_parser(subparsers)
    demo.add_parser(subparsers)

    cancel = subparsers.add_parser("cancel", help="withdraw a request by its id")
    cancel.add_argument("request_id", metavar="ID", help="the request_id that it was sent with")
    add_url(cancel)
    cancel.set_defaults(func=run_cancel)

    policies = subparsers.add_parser("policies", help="list the policies that a request can name")
    policies.set_defaults(func=run_policies)

    inspect = subparsers.add_parser("inspect", help="print how a PNG was made, as JSON")
    inspect.add_argument("file", type=Path, metavar="FILE.png")
    inspect.set_defaults(func=run_inspect)


def run_cancel(args: argparse.Namespace) -> int:
    with Client(args.url, timeout_s=10.0) as client:
        client.cancel(args.request_id)
    print(f"{args.request_id} was withdrawn")
    return 0


def run_policies(args: argparse.Namespace) -> int:
    width = max(map(len, POLICIES))
    for name, policy in POLICIES.items():
        print(f"{name:<{width}}  {describe(policy)}")
    return 0


def run_inspect(args: argparse.Namespace) -> int:
    try:
        metadata = read_metadata(args.file.read_bytes())
    except UnidentifiedImageError:
        raise InvalidArgument.of("file", str(args.file), "a PNG file") from None
    except OSError as error:
        raise NotFound(f"{args.file}: {error.strerror}") from None
    if not metadata:
        raise NotFound(f"{args.file} does not say how it was made; underpaint did not write it, or it was edited since")
    print(json.dumps(metadata, indent=2, ensure_ascii=False))
    return 0


def describe(policy: Policy) -> str:
    """The first line of what its class, or else its file, says about it."""
    text = type(policy).__doc__ or sys.modules[type(policy).__module__].__doc__ or ""
    return text.strip().partition("\n")[0]
