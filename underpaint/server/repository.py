"""What lies in a model repository, read before a server is started on it."""

from __future__ import annotations

import fnmatch
import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from underpaint.server.errors import PreflightError

ENSEMBLE = "ensemble"
_DEFAULT_FILES = {"python": "model.py", "onnxruntime": "model.onnx"}


@dataclass(frozen=True)
class ModelFolder:
    """A model as its folder describes it. ``backend`` is ``ensemble`` for a pipeline.

    ``children`` are the models that it needs: an ensemble's steps, and what a Python model says it calls, in its
    parameter ``calls`` (names with commas between them). ``on_demand``: another model has it loaded when it needs it.
    """

    name: str
    path: Path
    backend: str
    model_file: str
    processes: int
    children: tuple[str, ...]
    on_demand: bool = False

    def versions(self) -> list[Path]:
        """The version folders, oldest first."""
        numbered = [path for path in self.path.iterdir() if path.is_dir() and path.name.isdecimal()]
        return sorted(numbered, key=lambda path: int(path.name))


def read_models(repository: Path, patterns: Sequence[str]) -> list[ModelFolder]:
    """The models whose names match one of the shell patterns, and those that they need; of those that are loaded on
    demand, only such as a pattern names. Raises ``PreflightError``."""
    if not repository.is_dir():
        raise PreflightError(
            f"there is no model repository at {repository}: train and export one with 'underpaint train tiny', "
            "or name another with --model-repository"
        )
    names = sorted(path.name for path in repository.iterdir() if path.is_dir() and not path.name.startswith("."))
    models: dict[str, ModelFolder] = {}
    wanted = _matching(names, patterns, repository)
    while wanted:
        name = wanted.pop()
        if name not in models:
            models[name] = _read_model(repository / name)
            wanted += [child for child in models[name].children if child in names]
    return [models[name] for name in sorted(models) if name in patterns or not models[name].on_demand]


def _matching(names: Sequence[str], patterns: Sequence[str], repository: Path) -> list[str]:
    for pattern in patterns:
        if not fnmatch.filter(names, pattern):
            there = ", ".join(names) or "nothing"
            raise PreflightError(f"no model matches {pattern!r} in {repository}, which holds {there}")
    return [name for name in names if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)]


def _read_model(folder: Path) -> ModelFolder:
    config = _read_config(folder)
    if config.name not in ("", folder.name):
        raise PreflightError(
            f"{folder / 'config.pbtxt'} names its model {config.name!r}, but Triton goes by the folder, {folder.name!r}"
        )
    is_ensemble = config.platform == ENSEMBLE or config.HasField("ensemble_scheduling")
    backend = ENSEMBLE if is_ensemble else config.backend
    model_file = config.default_model_filename or _DEFAULT_FILES.get(backend, "")
    steps = [step.model_name for step in config.ensemble_scheduling.step]
    calls = [name for name in config.parameters["calls"].string_value.split(",") if name]
    processes = 0 if is_ensemble else sum(group.count or 1 for group in config.instance_group) or 1
    on_demand = config.parameters["on_demand"].string_value == "true"
    return ModelFolder(folder.name, folder, backend, model_file, processes, (*steps, *calls), on_demand)


def _read_config(folder: Path) -> Any:
    path = folder / "config.pbtxt"
    if not path.is_file():
        raise PreflightError(
            f"the model folder {folder} has no config.pbtxt: write it with 'underpaint render', "
            "or leave it out with --load-model"
        )
    model_config = importlib.import_module("tritonclient.grpc.model_config_pb2")
    text_format = importlib.import_module("google.protobuf.text_format")
    try:
        return text_format.Parse(path.read_text(), model_config.ModelConfig())
    except text_format.ParseError as error:
        raise PreflightError(f"{path} cannot be read: {error}") from None


def load_waves(models: Sequence[ModelFolder]) -> list[list[ModelFolder]]:
    """The models in the order of loading: each wave needs only earlier ones."""
    waves: list[list[ModelFolder]] = []
    waiting = list(models)
    while waiting:
        names = {model.name for model in waiting}
        wave = [model for model in waiting if not names.intersection(model.children)]
        if not wave:
            raise PreflightError(f"the models {', '.join(sorted(names))} need one another")
        waves.append(wave)
        waiting = [model for model in waiting if model not in wave]
    return waves
