"""Router and discriminator, from the very graphs that the server runs: no score is late or missing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime as ort
from tokenizers import Tokenizer

from underpaint.bench.judging.clip import in_batches, session


class Scores:
    """Both scorers of a model repository, in sessions of their own."""

    def __init__(self, repository: Path, family: str) -> None:
        """
        Raises:
            InvalidArgument: the repository has none.
        """
        self._router, self._discriminator = (
            session(repository / name / "1" / "model.onnx") for name in ("router", "discriminator")
        )
        self._tokenizer = Tokenizer.from_file(str(repository / f"{family}_tokenizer" / "1" / "tokenizer.json"))

    def difficulty(self, prompts: Sequence[str]) -> np.ndarray:
        """float64 [N]: the chance that the small variant fails at each prompt."""
        return self._scored(self._router, {"input_ids": self._ids(prompts)})

    def confidence(self, prompts: Sequence[str], pictures: np.ndarray) -> np.ndarray:
        """float64 [N]: the chance that each picture, uint8 [N, H, W, 3], shows what its prompt says."""
        return self._scored(self._discriminator, {"image": pictures, "input_ids": self._ids(prompts)})

    def _ids(self, prompts: Sequence[str]) -> np.ndarray:
        return np.array([encoding.ids for encoding in self._tokenizer.encode_batch(list(prompts))], np.int32)

    @staticmethod
    def _scored(scorer: ort.InferenceSession, inputs: dict[str, np.ndarray]) -> np.ndarray:
        def score(some: np.ndarray) -> np.ndarray:
            return scorer.run(["score"], {name: rows[some] for name, rows in inputs.items()})[0]

        return in_batches(np.arange(len(inputs["input_ids"])), score, "scoring")[:, 0].astype(float)
