"""``<family>_tokenizer``: prompts to the ids that the family's text encoders read (see ``tokenization``)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import triton_python_backend_utils as pb_utils

from underpaint.errors import UnderpaintError
from underpaint.triton.model_args import ModelArgs
from underpaint.triton.replies import to_triton_error
from underpaint.triton.tensors import inputs_of, text, to_triton
from underpaint.triton.tokenization import PromptTokenizer


class TritonPythonModel:
    """All tokenizers of a family in one model, without torch or transformers."""

    def initialize(self, args: Mapping[str, str]) -> None:
        self._tokenize = PromptTokenizer.load(ModelArgs.of(args).file("tokenizer.json").parent)

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        try:
            inputs = inputs_of(request)
            tensors = self._tokenize(text(inputs, "prompt"), text(inputs, "negative_prompt"))
        except UnderpaintError as error:
            return pb_utils.InferenceResponse(output_tensors=[], error=to_triton_error(error, to_model=True))
        return pb_utils.InferenceResponse(output_tensors=to_triton(tensors))
