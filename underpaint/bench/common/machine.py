"""Where and when something was measured, for the report."""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from underpaint.control.machine import cpu_count, cpu_model

PACKAGES = ("underpaint", "nvidia-pytriton", "onnxruntime", "numpy", "tritonclient")
_PROC_STAT = Path("/proc/stat")


@dataclass(frozen=True)
class Machine:
    """``busy_cores``: how many cores others kept busy just before the measurement began. Where it is not close to 0,
    the figures say little: who runs more processes gets more of the machine."""

    cpu: str
    cores: int
    system: str
    busy_cores: float

    @classmethod
    def here(cls, watch_s: float = 1.0) -> Machine:
        """This machine, watched for so many seconds."""
        return cls(cpu_model(), cpu_count(), platform.platform(), _busy_cores(watch_s))

    @classmethod
    def watched(cls) -> Machine:
        """This machine before something is measured; where others are at work, a warning on standard error."""
        machine = cls.here()
        if not machine.quiet:
            busy = f"{machine.busy_cores:g} of {machine.cores} cores are busy"
            print(f"underpaint: warning: {busy} with other work, so the figures will say little", file=sys.stderr)
        return machine

    @property
    def quiet(self) -> bool:
        return self.busy_cores < 0.1 * self.cores


def now() -> str:
    """The time in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def versions(packages: Sequence[str] = PACKAGES) -> dict[str, str]:
    """Of Python and of the packages that are installed."""
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _busy_cores(watch_s: float) -> float:
    before_s = _busy_s()
    time.sleep(watch_s)
    return round((_busy_s() - before_s) / watch_s, 2)


def _busy_s() -> float:
    """Seconds that all cores together have not been idle since the machine started (see proc_stat(5))."""
    user, nice, system, _idle, _wait, *other = (
        int(ticks) for ticks in _PROC_STAT.read_text().split("\n")[0].split()[1:9]
    )
    return (user + nice + system + sum(other)) / os.sysconf("SC_CLK_TCK")
