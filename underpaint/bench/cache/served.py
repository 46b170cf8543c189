"""Lookups as a front door makes them: through tritonserver, one after another, on a server with the model ``cache``.

A caller outside the server stands for the front door here, so gRPC is in the figures; a call between models crosses
process boundaries instead, which costs about the same.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.grpc as grpcclient
from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig

from underpaint.client.serving import own_server

_MODEL = "cache"
_CONFIG = "config.pbtxt"
_ASK_AGAIN_AFTER_S = 0.2


@dataclass(frozen=True)
class ServedCache:
    """The model ``cache`` of a server."""

    client: grpcclient.InferenceServerClient

    def best(self, space: str, scope: str, embedding: np.ndarray) -> float:
        """The similarity of the entry that is nearest to ``embedding``, float32 [D]; 0 where there is none."""
        inputs = [
            _input("op", np.array([b"lookup"], np.object_)),
            _input("space", np.array([space.encode()], np.object_)),
            _input("scope", np.array([scope.encode()], np.object_)),
            _input("embedding", embedding),
        ]
        matches = json.loads(self.client.infer(_MODEL, inputs).as_numpy("matches").item())
        return float(matches[0]["similarity"]) if matches else 0.0

    def settle(self) -> None:
        """Wait until lookups are as fast as they will be."""
        while self._stats()["unsettled"]:
            time.sleep(_ASK_AGAIN_AFTER_S)

    def _stats(self) -> dict[str, Any]:
        op = _input("op", np.array([b"stats"], np.object_))
        stats: dict[str, Any] = json.loads(self.client.infer(_MODEL, [op]).as_numpy("stats").item())
        return stats


@contextmanager
def served_cache(repository: Path, store: Path, capacity: int) -> Iterator[ServedCache]:
    """Serve the store in a folder with the model ``cache`` of a repository, which holds ``capacity`` entries then.

    Raises Unsupported and ServerStartError, as ``own_server`` does.
    """
    with tempfile.TemporaryDirectory(prefix="underpaint-bench-") as folder:
        _copy_model(repository, Path(folder), capacity)
        with own_server(Path(folder), store) as url, grpcclient.InferenceServerClient(url) as client:
            yield ServedCache(client)


def _copy_model(repository: Path, to: Path, capacity: int) -> None:
    shutil.copytree(repository / _MODEL, to / _MODEL, ignore=shutil.ignore_patterns("__pycache__"))
    config = text_format.Parse((to / _MODEL / _CONFIG).read_text(), ModelConfig())
    config.parameters["capacity"].string_value = str(capacity)
    (to / _MODEL / _CONFIG).write_text(text_format.MessageToString(config))


def _input(name: str, array: np.ndarray) -> grpcclient.InferInput:
    datatype = "BYTES" if array.dtype == np.object_ else "FP32"
    declared = grpcclient.InferInput(name, list(array.shape), datatype)
    declared.set_data_from_numpy(array)
    return declared
