"""Answers and errors, as Triton's Python backend wants them."""

from __future__ import annotations

import re
import traceback
from typing import Any

import triton_python_backend_utils as pb_utils

from underpaint.errors import UnderpaintError, from_status
from underpaint.triton.tensors import Tensors, to_triton

_STATUSES = ("UNKNOWN", "INTERNAL", "NOT_FOUND", "INVALID_ARG", "UNAVAILABLE", "UNSUPPORTED", "CANCELLED")
_FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL


def answer(sender: Any, tensors: Tensors) -> None:
    """Send the one and only response."""
    sender.send(pb_utils.InferenceResponse(output_tensors=to_triton(tensors)), flags=_FINAL)


def refuse(sender: Any, error: BaseException) -> None:
    """Send an error as the one and only response. What is not ours is a defect: its trace goes to the log."""
    if not isinstance(error, UnderpaintError):
        pb_utils.Logger.log_error("".join(traceback.format_exception(error)))
    sender.send(pb_utils.InferenceResponse(output_tensors=[], error=to_triton_error(error)), flags=_FINAL)


def to_triton_error(error: BaseException) -> Any:
    """The error with its status, so that callers see 400, 404 or 503 instead of a flat 500."""
    if isinstance(error, UnderpaintError):
        return pb_utils.TritonError(str(error), getattr(pb_utils.TritonError, error.status))
    return pb_utils.TritonError(f"{type(error).__name__}: {error}", pb_utils.TritonError.INTERNAL)


def from_triton_error(model: str, error: Any) -> UnderpaintError:
    """The error of a call to another model, its status kept."""
    code = error.code()
    status = next((s for s in _STATUSES if getattr(pb_utils.TritonError, s, None) == code), "INTERNAL")
    message = re.sub(r"^in ensemble '[^']*', ", "", error.message())
    return from_status(status, message if model in message or _is_ours(message) else f"{model}: {message}")


def _is_ours(message: str) -> bool:
    """Whether an error says by itself what it is about (see ``InvalidArgument.of``)."""
    return "; allowed: " in message
