"""``python -m underpaint.server serve …``: the server's part of the command line alone."""

from __future__ import annotations

import argparse
import sys

from underpaint.errors import UnderpaintError
from underpaint.server.cli import add_parser


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m underpaint.server")
    add_parser(parser.add_subparsers(required=True, metavar="COMMAND"))
    args = parser.parse_args()
    try:
        return int(args.func(args))
    except UnderpaintError as error:
        print(f"underpaint: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
