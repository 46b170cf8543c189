"""``model_control``: loads and unloads the models that others need on demand.

In a process of its own, since Triton's Python backend holds the interpreter for as long as a model takes to load: a
denoiser that waited for one itself would stand still, with all its requests.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import triton_python_backend_utils as pb_utils

from underpaint.errors import InvalidArgument, Unavailable, UnderpaintError
from underpaint.triton.replies import to_triton_error
from underpaint.triton.tensors import inputs_of, strings, text, to_triton


class TritonPythonModel:
    """Operations: ``load`` and ``unload``; each answers when it is done. To load what is loaded does nothing."""

    def initialize(self, args: Mapping[str, str]) -> None:
        self._operations: dict[str, Callable[[str], None]] = {"load": _load, "unload": pb_utils.unload_model}

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        inputs = inputs_of(request)
        op, model = text(inputs, "op"), text(inputs, "model")
        try:
            if op not in self._operations:
                raise InvalidArgument.of("op", op, ", ".join(self._operations))
            self._operations[op](model)
        except pb_utils.TritonModelException as error:
            return _failed(Unavailable(f"{model}: {op}: {error}"))
        except UnderpaintError as error:
            return _failed(error)
        return pb_utils.InferenceResponse(output_tensors=to_triton({"model": strings(model)}))


def _load(model: str) -> None:
    if not pb_utils.is_model_ready(model):
        pb_utils.load_model(model_name=model)


def _failed(error: UnderpaintError) -> Any:
    return pb_utils.InferenceResponse(output_tensors=[], error=to_triton_error(error, to_model=True))
