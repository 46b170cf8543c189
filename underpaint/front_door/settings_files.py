"""Settings from files beside ``deployment.json``, read again when they change.

``calibration.json`` is what `underpaint calibrate` measured; ``settings.json``, a JSON object with any of the names in
``DECIDED``, is what an operator decides. Neither has to be there.
"""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from underpaint.deployment import Deployment
from underpaint.errors import InvalidArgument
from underpaint.policies import Calibration, Settings
from underpaint.policies.calibration import FILE_NAME as CALIBRATION
from underpaint.policies.calibration import BrokenCalibration

FILE_NAME = "settings.json"
DECIDED = {f.name: str(f.type) for f in fields(Settings) if f.type in ("int", "float", "bool")}
_TYPES: dict[str, tuple[type, ...]] = {"int": (int,), "float": (float, int), "bool": (bool,)}
_TYPE_NAMES = {"int": "an integer", "float": "a number", "bool": "true or false"}


class SettingsFiles:
    """The two files of a model's version directory."""

    def __init__(self, folder: Path, deployment: Deployment) -> None:
        self._folder, self._deployment = folder, deployment
        self._seen = self._stamps()

    def read(self) -> Settings:
        """The settings as the files have them now.

        A calibration that makes no sense is as good as none, since the server can do without.

        Raises:
            InvalidArgument: settings.json makes no sense.
        """
        self._seen = self._stamps()
        decided = _decided(self._folder / FILE_NAME)
        try:
            return Settings.of(self._deployment, Calibration.load(self._folder), **decided)
        except BrokenCalibration as broken:
            return replace(Settings.of(self._deployment, **decided), uncalibrated=str(broken))

    def changed(self) -> bool:
        """Whether a file came, went or was written since they were last read."""
        return self._stamps() != self._seen

    def _stamps(self) -> list[tuple[int, int] | None]:
        return [_stamp(self._folder / name) for name in (FILE_NAME, CALIBRATION)]


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size


def _decided(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(raw, dict):
            raise InvalidArgument.of("settings", raw, "a JSON object")
        for name, value in raw.items():
            if name not in DECIDED:
                raise InvalidArgument.of("name", name, ", ".join(DECIDED))
            if type(value) not in _TYPES[DECIDED[name]]:
                raise InvalidArgument.of(name, value, _TYPE_NAMES[DECIDED[name]])
    except (ValueError, InvalidArgument) as error:
        raise InvalidArgument(f"{path}: {error}") from None
    return raw
