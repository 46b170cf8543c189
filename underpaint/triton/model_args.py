"""What Triton tells a Python model about itself at start, typed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from underpaint.errors import NotFound


@dataclass(frozen=True)
class ModelArgs:
    """Name, version directory and string parameters of the model that this process serves."""

    name: str
    folder: Path
    parameters: Mapping[str, str]

    def file(self, name: str) -> Path:
        """A file of the version directory that must be there."""
        path = self.folder / name
        if not path.is_file():
            raise NotFound(f"model {self.name} has no {name} in {self.folder}: train and export it, or fetch it whole")
        return path

    @classmethod
    def of(cls, args: Mapping[str, str]) -> ModelArgs:
        """From the mapping that Triton hands to ``initialize``."""
        config = json.loads(args["model_config"])
        parameters = {name: value["string_value"] for name, value in config.get("parameters", {}).items()}
        return cls(args["model_name"], Path(args["model_repository"]) / args["model_version"], parameters)
