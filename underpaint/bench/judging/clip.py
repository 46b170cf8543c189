"""The family's CLIP, straight from the model repository: one direction for pictures and for what is said of them.

What it says of quality is less than the judge does, since it is also what MoDM retrieves with.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnxruntime as ort
from tokenizers import Tokenizer

from underpaint.bench.common.progress import Progress
from underpaint.errors import InvalidArgument

_BATCH = 64

Embeddings = np.ndarray  # float32 [N, D], of unit length


class Clip:
    """Both towers, in sessions of their own: the server's are busy or gone when pictures are judged."""

    def __init__(self, repository: Path, family: str) -> None:
        """
        Raises:
            InvalidArgument: the repository has no embedders.
        """
        self._image = session(repository / "embed_image" / "1" / "model.onnx")
        self._text = session(repository / "embed_text" / "1" / "model.onnx")
        own = repository / "embed_tokenizer"  # of embedders that do not read as the family does
        folder = own if own.is_dir() else repository / f"{family}_tokenizer"
        self._tokenizer = Tokenizer.from_file(str(folder / "1" / "tokenizer.json"))

    def images(self, pictures: np.ndarray) -> Embeddings:
        """Of pictures, uint8 [N, H, W, 3]."""
        return in_batches(
            pictures, lambda batch: self._image.run(["embedding"], {"image": batch})[0], "embedding pictures"
        )

    def texts(self, prompts: Sequence[str]) -> Embeddings:
        """Of prompts; what many of them share is embedded once."""
        distinct, places = np.unique(np.array(prompts, dtype=np.str_), return_inverse=True)
        ids = np.array([encoding.ids for encoding in self._tokenizer.encode_batch(distinct.tolist())], dtype=np.int32)
        embedded = in_batches(
            ids, lambda batch: self._text.run(["embedding"], {"input_ids": batch})[0], "embedding prompts"
        )
        return embedded[places]


def session(path: Path) -> ort.InferenceSession:
    """A graph of the model repository. Raises InvalidArgument where it is missing."""
    if not path.is_file():
        raise InvalidArgument.of("model repository", str(path), "one with this file; run `underpaint train tiny`")
    return ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def in_batches(rows: np.ndarray, call: Callable[[np.ndarray], np.ndarray], doing: str) -> np.ndarray:
    """What ``call`` makes of all rows, a few at a time."""
    found = []
    with Progress(len(rows), doing=doing) as progress:
        for start in range(0, len(rows), _BATCH):
            found.append(call(rows[start : start + _BATCH]))
            progress.advance(len(found[-1]))
    return np.concatenate(found)
