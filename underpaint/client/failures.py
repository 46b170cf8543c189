"""What goes wrong on the way becomes one of ``underpaint.errors``, in a sentence that says what to do."""

from __future__ import annotations

from underpaint.client.address import Address
from underpaint.errors import DeadlineExceeded, Unavailable, UnderpaintError, from_status


def of_server(status: str, message: str) -> UnderpaintError:
    """The server's own error. Triton has no status for a missed deadline, but our front door has a phrase."""
    return DeadlineExceeded(message) if message.startswith("deadline passed") else from_status(status, message)


def no_server(address: Address) -> Unavailable:
    """Nobody listens there."""
    return Unavailable(f"no server at {address.target}; start one with `underpaint serve`, or name another with --url")


def wrong_protocol(address: Address) -> Unavailable:
    """Somebody listens, but in the other of Triton's two protocols."""
    return Unavailable(
        f"{address.target} does not speak gRPC; if it is Triton's HTTP port, use http://{address.target}"
    )


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
