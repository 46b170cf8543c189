"""Settings from files, read again when they change. None of them has to be there.

``calibration.json``, beside ``deployment.json``, is what `underpaint calibrate` measured. ``settings.json``, a JSON
object with any of the names in ``DECIDED``, is what an operator decides: beside ``deployment.json`` for one front door,
and in the store, where it counts for all of them and wins, what a monitor decides while they serve.
"""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from underpaint import policies
from underpaint.deployment import Deployment
from underpaint.errors import InvalidArgument
from underpaint.policies import Calibration, Settings
from underpaint.policies.calibration import FILE_NAME as CALIBRATION
from underpaint.policies.calibration import BrokenCalibration

FILE_NAME = "settings.json"
_TYPES: dict[str, tuple[type, ...]] = {"int": (int,), "float": (float, int), "bool": (bool,), "str": (str,)}
_TYPE_NAMES = {"int": "an integer", "float": "a number", "bool": "true or false", "str": "a string"}
_FOUND_OUT = ("uncalibrated", "unscored")
DECIDED = {
    f.name: plain
    for f in fields(Settings)
    if (plain := str(f.type).removesuffix(" | None")) in _TYPES and f.name not in _FOUND_OUT
}


class SettingsFiles:
    """The files of a model's version directory, and that of the store, if any."""

    def __init__(self, folder: Path, deployment: Deployment, store: Path | None = None) -> None:
        self._folder, self._deployment = folder, deployment
        self._decided = [each / FILE_NAME for each in (folder, store) if each is not None]
        self._seen = self._stamps()

    def read(self) -> Settings:
        """The settings as the files have them now.

        A calibration that makes no sense is as good as none, since the server can do without.

        Raises:
            InvalidArgument: a settings.json makes no sense.
        """
        self._seen = self._stamps()
        decided: dict[str, Any] = {}
        for path in self._decided:
            decided |= _decided(path, self._deployment)
        try:
            return Settings.of(self._deployment, Calibration.load(self._folder), **decided)
        except BrokenCalibration as broken:
            return replace(Settings.of(self._deployment, **decided), uncalibrated=str(broken))

    def changed(self) -> bool:
        """Whether a file came, went or was written since they were last read."""
        return self._stamps() != self._seen

    def _stamps(self) -> list[tuple[int, int] | None]:
        return [stamp(path) for path in (*self._decided, self._folder / CALIBRATION)]


def stamp(path: Path) -> tuple[int, int] | None:
    """What tells a file from what it was before; None where there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size


def _decided(path: Path, deployment: Deployment) -> dict[str, Any]:
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
        for role in ("small", "large", "refiner"):
            if raw.get(role, deployment.small) not in deployment.variants:
                raise InvalidArgument.of(role, raw[role], ", ".join(deployment.variants))
        if "policy" in raw:
            policies.by_name(raw["policy"])
    except (ValueError, InvalidArgument) as error:
        raise InvalidArgument(f"{path}: {error}") from None
    return raw
