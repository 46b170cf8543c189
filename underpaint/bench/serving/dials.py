"""A model repository whose thresholds and shares can be changed while it serves, without touching the original.

The front doors read calibration.json and settings.json again about once a second (``front_door/settings_files.py``).
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from underpaint.monitor.settings import SettingsFile
from underpaint.policies import Calibration

DOORS = ("generate", "generate_stream")
SETTLE_S = 2.5  # within which front doors have read what was decided


@contextmanager
def borrowed(repository: Path) -> Iterator[Path]:
    """A copy of the front doors beside links to every other model."""
    with tempfile.TemporaryDirectory(prefix="underpaint-bench-") as name:
        folder = Path(name)
        for model in repository.resolve().iterdir():
            if model.name in DOORS:
                shutil.copytree(model, folder / model.name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                (folder / model.name).symlink_to(model, target_is_directory=model.is_dir())
        yield folder


class Dials:
    """The files that a borrowed repository's front doors go by. Turning one waits until it has been noticed."""

    def __init__(self, repository: Path, small: str, wait: Callable[[float], None] = time.sleep) -> None:
        """``small``: the variant in that role, as long as these dials are turned."""
        self._folders = [repository / door / "1" for door in DOORS]
        self._wait = wait
        self._decide(small=small)
        self._calibration: Calibration | None = None
        self._share: float | None = None

    def calibrate(self, calibration: Calibration) -> None:
        """Go by these thresholds from now on."""
        if calibration == self._calibration:
            return
        self._calibration = calibration
        for folder in self._folders:
            calibration.save(folder)
        self._wait(SETTLE_S)

    def share(self, small_share: float) -> None:
        """Have the policy random-mix give so many of its requests to the small variant."""
        if small_share == self._share:
            return
        self._share = small_share
        self._decide(small_share=small_share)
        self._wait(SETTLE_S)

    def _decide(self, **values: object) -> None:
        for folder in self._folders:
            SettingsFile(folder).write(values)
