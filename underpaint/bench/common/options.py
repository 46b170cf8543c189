"""What several benches can be told."""

from __future__ import annotations

import argparse
from pathlib import Path

from underpaint.deployment import default_repository


def add_server(parser: argparse.ArgumentParser) -> None:
    """For those that measure on any server: a running one, or one of their own (see ``serving.site``)."""
    parser.add_argument("--url", help="use this running server (default: start one, with an empty cache)")
    add_repository(parser)


def add_repository(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model-repository", type=Path, default=default_repository(), help="default: that of underpaint serve"
    )


def add_report(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the full report there")
