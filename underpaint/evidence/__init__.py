"""What is known of a request before any denoising."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Evidence:
    """The state of the queue and of the clock, which cost nothing to know.

    ``in_flight`` counts the requests that the front door is serving, this one included; ``time_left_s`` is None for a
    request without a deadline.
    """

    in_flight: int
    time_left_s: float | None = None
