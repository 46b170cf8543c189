"""Where the store lies unless somebody says otherwise."""

from __future__ import annotations

import os
from pathlib import Path

VARIABLE = "UNDERPAINT_STORE"


def default_store() -> Path:
    """The folder that the environment names in ``UNDERPAINT_STORE``, else ``~/.cache/underpaint``; absolute."""
    named = os.environ.get(VARIABLE)
    return Path(named).expanduser().absolute() if named else Path.home() / ".cache" / "underpaint"
