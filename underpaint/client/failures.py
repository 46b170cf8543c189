"""What goes wrong on the way becomes one of ``underpaint.errors``, in a sentence that says what to do."""

from __future__ import annotations

import re

from underpaint.client.address import Address
from underpaint.errors import DeadlineExceeded, Unavailable, UnderpaintError, from_status

_DEADLINE = re.compile(r"([\w.-]+: )?deadline passed")  # a model's name may stand before it


def of_server(status: str, message: str) -> UnderpaintError:
    """The server's own error. Triton has no status for a missed deadline, but our server has a phrase."""
    return DeadlineExceeded(message) if _DEADLINE.match(message) else from_status(status, message)


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
