"""Where and when something was measured, for the report."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_PACKAGES = ("underpaint", "nvidia-pytriton", "onnxruntime", "numpy", "tritonclient")


@dataclass(frozen=True)
class Machine:
    """``load_average``: processes that wanted to run in the last minute, before the measurement began. Anything near
    ``cores`` means that others were at work, and that the figures say little."""

    cpu: str
    cores: int
    system: str
    load_average: float

    @classmethod
    def here(cls) -> Machine:
        return cls(_cpu_model(), len(os.sched_getaffinity(0)), platform.platform(), round(os.getloadavg()[0], 2))


def now() -> str:
    """The time in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def versions(packages: Sequence[str] = _PACKAGES) -> dict[str, str]:
    """Of Python and of the packages that are installed."""
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _cpu_model() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor()
    named = re.search(r"^model name\s*: (.*)$", text, re.MULTILINE)
    return named.group(1) if named else platform.processor()
