"""What the client's commands have in common."""

from __future__ import annotations

import argparse
import os

from underpaint.client.address import DEFAULT_URL


def add_url(parser: argparse.ArgumentParser) -> None:
    """``--url``, which the environment variable UNDERPAINT_URL stands in for."""
    parser.add_argument(
        "--url",
        default=os.environ.get("UNDERPAINT_URL", DEFAULT_URL),
        help=f"server, as host:port (gRPC) or http://host:port (default: $UNDERPAINT_URL, else {DEFAULT_URL})",
    )
