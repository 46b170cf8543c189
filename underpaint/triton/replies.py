"""Answers and errors, as Triton's Python backend wants them.

A status must survive two hops: through an ensemble, which keeps it, and through a call between models, where server
2.51 turns every status into INTERNAL and keeps only the text. So models that other models call put the status into
the text, in brackets at its end, and the caller takes it out again.
"""

from __future__ import annotations

import re
import traceback
from typing import Any

import triton_python_backend_utils as pb_utils

from underpaint.errors import UnderpaintError, from_status
from underpaint.front_door.transport import Tensors
from underpaint.triton.tensors import to_triton

_FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL
_STATUSES = ("INTERNAL", "NOT_FOUND", "INVALID_ARG", "UNAVAILABLE", "UNSUPPORTED", "CANCELLED")
_MARK = re.compile(rf" \[({'|'.join(_STATUSES)})\]$")
_ENSEMBLE = re.compile(r"^in ensemble '[^']*', ")

# Errors of Triton itself that say "not now": a dead process, a full queue, a model that is being reloaded.
_PASSING = re.compile(r"is not healthy|[Ee]xceeds maximum queue size|is not ready|not available|unavailable")
# … and such that say "never": what was sent does not fit the model.
_MISFIT = re.compile(r"unexpected shape for input|inference input data-type|unexpected inference input")


def answer(sender: Any, tensors: Tensors) -> None:
    """Send the one and only response."""
    sender.send(pb_utils.InferenceResponse(output_tensors=to_triton(tensors)), flags=_FINAL)


def refuse(sender: Any, error: BaseException, to_model: bool = False) -> None:
    """Send an error as the one and only response. What is not ours is a defect: its trace goes to the log.

    ``to_model``: the caller is another model of this server.
    """
    if not isinstance(error, UnderpaintError):
        pb_utils.Logger.log_error("".join(traceback.format_exception(error)))
    response = pb_utils.InferenceResponse(output_tensors=[], error=to_triton_error(error, to_model))
    sender.send(response, flags=_FINAL)


def to_triton_error(error: BaseException, to_model: bool) -> Any:
    """The error with its status, so that callers see 400, 404 or 503 instead of a flat 500."""
    status = error.status if isinstance(error, UnderpaintError) else "INTERNAL"
    text = str(error) if isinstance(error, UnderpaintError) else f"{type(error).__name__}: {error}"
    return pb_utils.TritonError(f"{text} [{status}]" if to_model else text, getattr(pb_utils.TritonError, status))


def from_triton_error(model: str, error: Any) -> UnderpaintError:
    """The error of a call to another model, its status kept. Errors that are not ours name the model."""
    message = _ENSEMBLE.sub("", error.message())
    marked = _MARK.search(message)
    if marked:
        return from_status(marked.group(1), _MARK.sub("", message))
    if _PASSING.search(message):
        return from_status("UNAVAILABLE", f"{model}: {message}")
    if _MISFIT.search(message):
        return from_status("INVALID_ARG", f"{model}: {message}")
    return from_status(_status_of(error), f"{model}: {message}")


def _status_of(error: Any) -> str:
    return next((s for s in _STATUSES if getattr(pb_utils.TritonError, s, None) == error.code()), "INTERNAL")
