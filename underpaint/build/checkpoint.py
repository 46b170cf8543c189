"""A checkpoint in the hub's layout: ``model_index.json``, and a folder for each component."""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from underpaint.errors import InvalidArgument

_INDEX = "model_index.json"
_NETWORKS = ("unet", "transformer")


@dataclass(frozen=True)
class Checkpoint:
    """A folder, and the file that replaces its denoising network's weights, if any (SDXL-Lightning)."""

    folder: Path
    network_file: Path | None = None

    @cached_property
    def index(self) -> Mapping[str, Any]:
        """What the pipeline consists of. Raises InvalidArgument where the folder says nothing of it."""
        path = self.folder / _INDEX
        if not path.is_file():
            raise InvalidArgument.of("--from", str(self.folder), f"a folder in the hub's layout, with {_INDEX}")
        return _json(path)

    @property
    def pipeline(self) -> str:
        return str(self.index["_class_name"])

    @cached_property
    def components(self) -> Mapping[str, tuple[str, str]]:
        """Library and class of every component, by name."""
        pairs = {name: value for name, value in self.index.items() if isinstance(value, list) and all(value)}
        return {name: (str(library), str(class_name)) for name, (library, class_name) in pairs.items()}

    @property
    def encoders(self) -> tuple[str, ...]:
        """The text encoders, in order."""
        return tuple(sorted(name for name in self.components if name.startswith("text_encoder")))

    @property
    def tokenizers(self) -> tuple[Path, ...]:
        """One for each text encoder."""
        return tuple(self.folder / name.replace("text_encoder", "tokenizer") for name in self.encoders)

    @property
    def network(self) -> str:
        return next(name for name in _NETWORKS if name in self.components)

    def config(self, component: str) -> dict[str, Any]:
        return _json(self.folder / component / "config.json")

    def scheduler_config(self) -> dict[str, Any]:
        """As the pipeline uses it: FLUX's says which levels it wants, whatever its scheduler would take."""
        spacing = {"timestep_spacing": "trailing"} if self.pipeline == "FluxPipeline" else {}
        return {**_json(self.folder / "scheduler" / "scheduler_config.json"), **spacing}

    def load(self, component: str, dtype: torch.dtype) -> nn.Module:
        """A component with its weights. Raises InvalidArgument where they are cut off, or not those of its class."""
        place, kind = self.folder / component, self._class(component)
        try:
            model, told = kind.from_pretrained(place, torch_dtype=dtype, output_loading_info=True)
            if self.network_file is not None and component == self.network:
                from safetensors.torch import load_file

                model.load_state_dict(load_file(self.network_file))
        except (SafetensorError, OSError, RuntimeError, ValueError) as error:
            why = " ".join(str(error).split()).partition(". If you ")[0][:300]
            raise InvalidArgument(f"{place} cannot be loaded; fetch it again: {why}") from None
        missing = sorted(told["missing_keys"])  # which from_pretrained makes up
        if missing:
            raise InvalidArgument(
                f"{place} lacks {len(missing)} weights of {kind.__name__}, such as {missing[0]}: it is of another "
                "architecture, or not whole"
            )
        loaded: nn.Module = model.eval()
        return loaded

    def on_meta(self, component: str) -> nn.Module:
        """A component without weights, from its config alone."""
        kind = self._class(component)
        with torch.device("meta"):
            if hasattr(kind, "from_config"):
                model: nn.Module = kind.from_config(self.config(component))
            else:
                model = kind(kind.config_class(**self.config(component)))
        return model

    def digest(self, component: str) -> str:
        """A hash of everything in a component's folder."""
        digest = hashlib.sha256()
        for path in self._files(component):
            digest.update(path.name.encode())
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        return digest.hexdigest()

    def _files(self, component: str) -> Iterator[Path]:
        yield from (path for path in sorted((self.folder / component).rglob("*")) if path.is_file())
        if self.network_file is not None and component == self.network:
            yield self.network_file

    def _class(self, component: str) -> Any:
        library, name = self.components[component]
        return getattr(importlib.import_module(library), name)


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise InvalidArgument(f"{path} is missing: the checkpoint is not whole; fetch it again")
    values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return values
