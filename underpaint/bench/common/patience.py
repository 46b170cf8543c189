"""Trying again: what prepares a measurement should not end it because a model was restarted meanwhile."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from underpaint.errors import NotFound, Unavailable

Answer = TypeVar("Answer")
_PAUSES_S = (2.0, 10.0, 30.0)


def insist(ask: Callable[[], Answer], wait: Callable[[float], None] = time.sleep) -> Answer:
    """Ask again, some times, where the server was not there or did not know a model that it is loading."""
    for pause_s in _PAUSES_S:
        try:
            return ask()
        except (NotFound, Unavailable):
            wait(pause_s)
    return ask()
