"""Every error has one status, survives the way through Triton, and says what was given and what is allowed."""

from __future__ import annotations

import pytest

from underpaint import errors
from underpaint.errors import (
    Cancelled,
    DeadlineExceeded,
    Internal,
    InvalidArgument,
    NotFound,
    ServerStartError,
    Unavailable,
    UnderpaintError,
    Unsupported,
    from_status,
)

# Triton's own names (TRITONSERVER_Error_Code); one of our classes may only carry one of these.
TRITON_STATUSES = {
    "UNKNOWN",
    "INTERNAL",
    "NOT_FOUND",
    "INVALID_ARG",
    "UNAVAILABLE",
    "UNSUPPORTED",
    "ALREADY_EXISTS",
    "CANCELLED",
}


@pytest.mark.parametrize("kind", [Internal, InvalidArgument, NotFound, Unavailable, Cancelled, Unsupported])
def test_a_class_survives_the_way_through_its_status(kind: type[UnderpaintError]) -> None:
    there_and_back = from_status(kind.status, "seed: got -1; allowed: 0 or more")
    assert type(there_and_back) is kind
    assert str(there_and_back) == "seed: got -1; allowed: 0 or more"


def test_every_class_has_a_status_that_triton_knows() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, UnderpaintError)]
    assert len(kinds) >= 9
    assert {kind.status for kind in kinds} <= TRITON_STATUSES


@pytest.mark.parametrize("status", ["UNKNOWN", "ALREADY_EXISTS", "", "invalid_arg"])
def test_a_status_without_a_class_counts_as_internal(status: str) -> None:
    assert type(from_status(status, "what is this")) is Internal


def test_a_deadline_reaches_the_caller_as_unavailable() -> None:
    assert issubclass(DeadlineExceeded, Unavailable)
    assert DeadlineExceeded.status == "UNAVAILABLE"


def test_a_server_that_does_not_start_is_an_error_of_ours() -> None:
    assert issubclass(ServerStartError, UnderpaintError)


def test_an_invalid_argument_names_field_value_and_what_is_allowed() -> None:
    error = InvalidArgument.of("scheduler", "dpm", "ddim, euler")
    assert str(error) == "scheduler: got 'dpm'; allowed: ddim, euler"


def test_a_huge_value_is_shortened_and_its_length_told() -> None:
    message = str(InvalidArgument.of("prompt", "x" * 100_000, "at most 4096 characters"))
    assert len(message) < 200
    assert "100002 characters" in message  # of its repr
    assert message.endswith("allowed: at most 4096 characters")


def test_a_value_of_just_the_limit_is_not_shortened() -> None:
    assert f"got {'x' * 78!r};" in str(InvalidArgument.of("prompt", "x" * 78, "less"))
