"""What a rollout does to the files of a model repository. Nothing here talks to a server."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig

from underpaint.build.repository import weights_of
from underpaint.deployment import Deployment, file_name
from underpaint.errors import NotFound
from underpaint.releases import suffix_of
from underpaint.server.runtime import compile_models
from underpaint.triton.model_config import to_text
from underpaint.triton.versions import Versioned, loading

_DOORS = ("generate", "generate_stream")
_TRIAL = "@"


class Repository:
    """A rendered model repository, with the versions of a family's components in their directories.

    The family's own version is the one that ``deployment.json`` names; that of a version on trial lies beside it.
    """

    def __init__(self, folder: Path) -> None:
        """Raises NotFound where ``folder`` is none."""
        if not (folder / _DOORS[0] / "1" / file_name()).is_file():
            raise NotFound(f"{folder} is no rendered model repository: name one with --model-repository")
        self.folder = folder
        self._configs = {config.name: config for config in _configs(folder)}
        self._versioned = Versioned.of(self.deployment().variants, list(self._configs.values()))

    def deployment(self) -> Deployment:
        """What serves."""
        return Deployment.load(self.folder / _DOORS[0] / "1")

    @property
    def components(self) -> list[str]:
        """The models that have weights, by name."""
        return sorted(self._versioned.components)

    @property
    def callers(self) -> list[str]:
        """The models that name others, in an order in which they can be loaded."""
        return sorted(self._versioned.callers, key=lambda name: (_rank(self._configs[name]), name))

    def beside(self, version: int) -> list[str]:
        """What the callers of a version on trial are called, in the same order."""
        return [self._versioned.renamed(name, suffix_of(version)) for name in self.callers]

    def begin(self, version: int) -> None:
        """Put a version beside the one that serves: its components are to be loaded, its callers written.

        Raises:
            NotFound: a component has no such version.
        """
        missing = [name for name in self.components if not _has_files(self.folder / name / str(version))]
        if missing:
            raise NotFound(
                f"{', '.join(missing)}: no version {version} in {self.folder}; build it before it is rolled out"
            )
        serving = self.deployment()
        for name in self.callers:
            trial = self._versioned.pinned(self._configs[name], version, suffix_of(version))
            source = self._built(name, version) or self.folder / name / str(serving.version)
            _copy(source, self.folder / trial.name / str(version))
            self._write(trial)
        self._load_components([serving.version, version])
        weights = {name: weights_of(self.folder, name, version) for name in serving.variants}
        variants = {name: replace(each, weights=weights[name]) for name, each in serving.variants.items()}
        self._write_deployment(replace(serving, variants=variants, version=version), file_name(version))
        compile_models(self.folder / name / str(version) for name in self.beside(version))

    def settle(self, version: int) -> None:
        """Make a version on trial the one that the plain names stand for."""
        for name in self.callers:
            trial = self.folder / self._versioned.renamed(name, suffix_of(version)) / str(version)
            if trial.is_dir():
                _copy(trial, self.folder / name / str(version))
            self._write(self._versioned.pinned(self._configs[name], version))

    def announce(self, version: int) -> None:
        """Tell the front doors that this is the family's own version now."""
        for door in self._doors():
            self._write_deployment(Deployment.load(door, version), file_name())

    def clear(self, version: int) -> None:
        """Remove what ``begin`` wrote; what a version's components are made of stays."""
        for name in self.beside(version):
            shutil.rmtree(self.folder / name, ignore_errors=True)
        for door in self._doors():
            (door / file_name(version)).unlink(missing_ok=True)

    def load_only(self, version: int) -> None:
        """The components are to be loaded in this version and no other."""
        self._load_components([version])

    def _built(self, name: str, version: int) -> Path | None:
        """What a build has written for a caller's version, if it has."""
        folder = self.folder / name / str(version)
        return folder if folder.is_dir() else None

    def _load_components(self, versions: Sequence[int]) -> None:
        for name in self.components:
            self._write(loading(self._configs[name], sorted(set(versions))))

    def _write(self, config: ModelConfig) -> None:
        folder = self.folder / config.name
        folder.mkdir(exist_ok=True)
        (folder / "config.pbtxt").write_text(to_text(config))

    def _write_deployment(self, deployment: Deployment, name: str) -> None:
        """So that whoever reads it meanwhile finds the old text or the new one."""
        for door in self._doors():
            unfinished = door / f".{name}"
            unfinished.write_text(deployment.to_json())
            unfinished.replace(door / name)

    def _doors(self) -> Iterator[Path]:
        folders = (self.folder / name / "1" for name in _DOORS)
        yield from (folder for folder in folders if folder.is_dir())


def _configs(folder: Path) -> Iterator[ModelConfig]:
    for path in sorted(folder.glob("*/config.pbtxt")):
        if _TRIAL not in path.parent.name:
            yield text_format.Parse(path.read_text(), ModelConfig())


def _rank(config: ModelConfig) -> int:
    """Twins before the denoisers that call them, and these before their ensembles."""
    return 2 if config.platform == "ensemble" else 1 if config.backend == "python" else 0


def _has_files(folder: Path) -> bool:
    return folder.is_dir() and any(folder.iterdir())


def _copy(source: Path, target: Path) -> None:
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
