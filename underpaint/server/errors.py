"""Why an embedded server does not start."""

from __future__ import annotations

from underpaint.errors import ServerStartError


class PreflightError(ServerStartError):
    """Seen before anything was started: the message is one sentence that says what is wrong and what to do."""


class ServerEndedError(ServerStartError):
    """tritonserver ended while it was being started."""
