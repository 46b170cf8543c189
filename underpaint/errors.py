"""One error hierarchy. Each class is one status that a caller can act on, named as Triton and gRPC name it.

Every message says what was given, what is allowed and, where it helps, what to do.
"""

from __future__ import annotations

from typing import ClassVar


class UnderpaintError(Exception):
    """Base of everything that underpaint raises on purpose."""

    status: ClassVar[str] = "INTERNAL"


class InvalidArgument(UnderpaintError):
    """The request cannot be served as it stands; sending it again unchanged fails again (HTTP 400)."""

    status = "INVALID_ARG"

    @classmethod
    def of(cls, field: str, given: object, allowed: str) -> InvalidArgument:
        """Name the field, the value that was given, and what is allowed."""
        return cls(f"{field}: got {_shorten(given)}; allowed: {allowed}")


class NotFound(UnderpaintError):
    """The thing that the caller named does not exist, or no longer does (HTTP 404)."""

    status = "NOT_FOUND"


class Unavailable(UnderpaintError):
    """A part of the server is down, full or too slow; the same request may succeed later (HTTP 503)."""

    status = "UNAVAILABLE"


class Overloaded(Unavailable):
    """There is more work than can be done in the time that was promised; ``retry_after_s`` says when to come back."""

    def __init__(self, message: str, retry_after_s: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s

    @classmethod
    def of(cls, slo_ms: int, backlog_s: float, retry_after_s: float) -> Overloaded:
        why = f"slo_ms: {slo_ms} ms cannot be kept, {backlog_s * 1e3:.0f} ms of work go first"
        return cls(f"{why}; retry after {retry_after_s:.1f} s", retry_after_s)


class DeadlineExceeded(Unavailable):
    """The request's own deadline passed before its image was done. Triton has no status of its own for it."""


class Cancelled(UnderpaintError):
    """The caller withdrew the request."""

    status = "CANCELLED"


class Unsupported(UnderpaintError):
    """Valid in itself, but this deployment cannot do it (HTTP 501)."""

    status = "UNSUPPORTED"


class Internal(UnderpaintError):
    """A defect of ours."""


class ServerStartError(UnderpaintError):
    """The embedded server could not be started; the message is one sentence that says what to do."""


_BY_STATUS: dict[str, type[UnderpaintError]] = {
    cls.status: cls for cls in (Internal, InvalidArgument, NotFound, Unavailable, Cancelled, Unsupported)
}


def from_status(status: str, message: str) -> UnderpaintError:
    """The error for a Triton status name; a status we have no class for becomes ``Internal``."""
    return _BY_STATUS.get(status, Internal)(message)


def _shorten(value: object, limit: int = 80) -> str:
    text = repr(value)
    return text if len(text) <= limit else f"{text[:limit]}… ({len(text)} characters)"
