"""By what a profile knows the machine that it was measured on."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path


def machine_name() -> str:
    """Of this machine: its processor and how many cores of it this process may use."""
    return f"{cpu_model()}, {cpu_count()} cores"


def cpu_count() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0))


def cpu_model() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor()
    named = re.search(r"^model name\s*: (.*)$", text, re.MULTILINE)
    return named.group(1) if named else platform.processor()
