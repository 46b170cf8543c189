"""Graphs that only say what they take and give, for repositories that are rendered but not served."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnx import TensorProto, helper
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

FLOAT, INT32, UINT8 = TensorProto.FLOAT, TensorProto.INT32, TensorProto.UINT8
Face = tuple[int, Sequence[int | str]]  # type, dimensions


@dataclass(frozen=True)
class Faces:
    inputs: Mapping[str, Face]
    outputs: Mapping[str, Face]


def write_faces(repository: Path, variant: str, graphs: Mapping[str, Faces], files: Mapping[str, Any]) -> Path:
    """The components of a variant, by part, and other files of the repository."""
    for part, faces in graphs.items():
        folder = repository / f"{variant}_{part}" / "1"
        folder.mkdir(parents=True)
        sides = (
            [helper.make_tensor_value_info(name, *face) for name, face in side.items()]
            for side in (faces.inputs, faces.outputs)
        )
        (folder / "model.onnx").write_bytes(helper.make_model(helper.make_graph([], part, *sides)).SerializeToString())
    for name, content in files.items():
        (repository / name).parent.mkdir(parents=True, exist_ok=True)
        (repository / name).write_text(json.dumps(content))
    return repository


def words_of(length: int) -> Any:
    """A tokenizer.json that cuts and pads to so many words, and marks neither begin nor end."""
    tokenizer = Tokenizer(WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    tokenizer.enable_truncation(length)
    tokenizer.enable_padding(length=length)
    return json.loads(tokenizer.to_str())
