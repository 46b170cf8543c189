"""The settings file of a store: what the monitor decides goes in, what others decided stays."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from underpaint.errors import InvalidArgument, Unavailable

FILE_NAME = "settings.json"


@dataclass(frozen=True)
class SettingsFile:
    """``settings.json`` in a folder that front doors look into, as a rule a store.

    Servers read it again about a second after it has changed.
    """

    store: Path

    @property
    def path(self) -> Path:
        return self.store / FILE_NAME

    def read(self) -> dict[str, Any]:
        """What is decided at present; empty where there is no file.

        Raises:
            InvalidArgument: it is no JSON object.
        """
        try:
            raw = json.loads(self.path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise InvalidArgument(f"{self.path}: {error}") from None
        if not isinstance(raw, dict):
            raise InvalidArgument.of(str(self.path), raw, "a JSON object")
        return raw

    def write(self, decided: Mapping[str, Any]) -> bool:
        """Add or replace these names at once, and take out those that are None; tells whether that changed anything.

        Raises:
            InvalidArgument: what is there is no JSON object, and so not ours to overwrite.
            Unavailable: it cannot be written.
        """
        present = self.read()
        wanted = {name: value for name, value in {**present, **decided}.items() if value is not None}
        if wanted == present:
            return False
        try:
            replace(self.path, json.dumps(wanted, indent=2) + "\n")
        except OSError as error:
            raise Unavailable(f"{self.path} cannot be written: {error.strerror}") from None
        return True


def replace(path: Path, text: str) -> None:
    """Write a file so that whoever reads it finds the old text or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, unfinished = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        Path(unfinished).chmod(0o644)
        Path(unfinished).replace(path)
    except BaseException:
        Path(unfinished).unlink(missing_ok=True)
        raise
