"""``<family>_tokenizer``: prompts to the ids that the family's text encoders read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from tokenizers import Tokenizer

from underpaint.deployment import TOKEN_MARKERS
from underpaint.errors import UnderpaintError
from underpaint.triton.model_args import ModelArgs
from underpaint.triton.replies import to_triton_error
from underpaint.triton.tensors import inputs_of, text, to_triton


class TritonPythonModel:
    """The tokenizer, saved in CLIP's format, without torch or transformers."""

    def initialize(self, args: Mapping[str, str]) -> None:
        self._tokenizer = Tokenizer.from_file(str(ModelArgs.of(args).file("tokenizer.json")))
        self._counter = Tokenizer.from_str(self._tokenizer.to_str())
        self._counter.no_truncation()
        self._counter.no_padding()

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        try:
            inputs = inputs_of(request)
            tensors = self._tokenize(text(inputs, "prompt"), text(inputs, "negative_prompt"))
        except UnderpaintError as error:
            return pb_utils.InferenceResponse(output_tensors=[], error=to_triton_error(error, to_model=True))
        return pb_utils.InferenceResponse(output_tensors=to_triton(tensors))

    def _tokenize(self, prompt: str, negative_prompt: str) -> dict[str, np.ndarray]:
        ids = [e.ids for e in self._tokenizer.encode_batch([prompt, negative_prompt])]
        counts = [len(e.ids) - TOKEN_MARKERS for e in self._counter.encode_batch([prompt, negative_prompt])]
        return {
            "input_ids": np.array(ids[:1], np.int32),
            "negative_input_ids": np.array(ids[1:], np.int32),
            "prompt_tokens": np.array([counts], np.int32),
        }
