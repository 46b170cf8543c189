"""What goes wrong on the way becomes one of ``underpaint.errors``, in a sentence that says what to do."""

from __future__ import annotations

import re

from underpaint.client.address import Address
from underpaint.errors import Cancelled, DeadlineExceeded, Overloaded, Unavailable, UnderpaintError, from_status

# Triton has no status for a missed deadline, and over HTTP none for a cancelled request; our phrases tell.
_PHRASES: dict[str, type[UnderpaintError]] = {
    r"deadline passed (at|before) ": DeadlineExceeded,
    r"request \S+ was cancelled": Cancelled,
}


def of_server(status: str, message: str) -> UnderpaintError:
    """The server's own error."""
    for phrase, kind in _PHRASES.items():
        if re.match(phrase, message):
            return kind(message)
    overloaded = re.match(r"slo_ms: .*; retry after ([\d.]+) s$", message)
    return Overloaded(message, float(overloaded.group(1))) if overloaded else from_status(status, message)


def no_server(address: Address) -> Unavailable:
    """Nobody listens there."""
    return Unavailable(f"no server at {address.target}; start one with `underpaint serve`")


def wrong_protocol(address: Address) -> Unavailable:
    """Somebody listens, but in another protocol, likely the other one of Triton's two."""
    ours, other = ("gRPC", "http") if address.scheme == "grpc" else ("HTTP", "grpc")
    return Unavailable(f"{address.target} does not speak {ours}; is it the port for {other}://{address.target}?")


def connection_lost(address: Address, details: str) -> Unavailable:
    return Unavailable(f"lost the connection to {address.target}: {details}")


def no_answer(address: Address, timeout_s: float | None) -> DeadlineExceeded:
    return DeadlineExceeded(f"no answer from {address.target} within {timeout_s:g} s")


def not_ready(address: Address, timeout_s: float) -> Unavailable:
    return Unavailable(
        f"no server was ready at {address.target} within {timeout_s:g} s; is `underpaint serve` running?"
    )


def no_picture() -> Unavailable:
    return Unavailable("the server ended the stream before the picture was done")
