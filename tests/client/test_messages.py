"""Requests to tensors and answers to pictures, without a server."""

from __future__ import annotations

from dataclasses import fields
from typing import get_type_hints

import numpy as np
import pytest

from tests.client.fake_transport import a_picture, progress
from underpaint.client.messages import (
    MODEL,
    Wishes,
    cancel_call,
    event_of,
    patience_s,
    picture_of,
    request_of,
    run_call,
)
from underpaint.client.pictures import Picture, Progress
from underpaint.errors import InvalidArgument
from underpaint.images import read_metadata
from underpaint.requests import GenerateRequest


def test_wishes_are_the_fields_of_the_request() -> None:
    """Type checkers need them spelled out; the two lists must not drift apart. The SDK speaks in arrays, so the output
    format is no wish."""
    declared = get_type_hints(GenerateRequest)
    assert get_type_hints(Wishes) == {n: t for n, t in declared.items() if n not in ("prompt", "output_format")}


def test_tensors_have_the_types_that_the_model_declares() -> None:
    request = request_of(
        "a red circle", {"seed": 2**40, "num_inference_steps": 25, "guidance_scale": 3, "variant": "x", "cache": "off"}
    )
    inputs = run_call(MODEL, request).inputs
    assert {name: (array.dtype, array.shape) for name, array in inputs.items()} == {
        "prompt": (np.dtype(object), (1,)),
        "seed": (np.dtype(np.int64), (1,)),
        "num_inference_steps": (np.dtype(np.int64), (1,)),
        "guidance_scale": (np.dtype(np.float32), (1,)),
        "variant": (np.dtype(object), (1,)),
        "cache": (np.dtype(object), (1,)),
    }
    assert inputs["prompt"].item() == b"a red circle"
    assert inputs["seed"].item() == 2**40


def test_parameters_are_what_must_pass_through_ensembles() -> None:
    call = run_call(MODEL, request_of("a red circle", {"request_id": "me", "deadline_ms": 500}))
    assert call.parameters == {"request_id": "me", "deadline_ms": 500}


def test_every_request_has_an_id_to_cancel_it_by() -> None:
    first, second = (request_of("a red circle", {}).request_id for _ in range(2))
    assert first and second and first != second


def test_what_is_left_open_is_left_to_the_server() -> None:
    left_open = {"seed": None, "cache": "readwrite", "negative_prompt": "", "tenant": "default"}
    call = run_call(MODEL, request_of("a red circle", left_open))
    assert set(call.inputs) == {"prompt"} and set(call.parameters) == {"request_id"}


def test_an_image_is_sent_as_it_is() -> None:
    told = {"controlnet": "edges", "control_image": np.zeros((1, 8, 8, 3), np.uint8)}
    inputs = run_call(MODEL, request_of("a red circle", told)).inputs
    assert inputs["control_image"] is told["control_image"] and set(inputs) == {"prompt", *told}


@pytest.mark.parametrize(
    ("wishes", "named"),
    [
        ({"colour": "red"}, "colour"),
        ({"seed": -1}, "seed"),
        ({"num_inference_steps": 2.5}, "num_inference_steps"),
        ({"guidance_scale": float("nan")}, "guidance_scale"),
    ],
)
def test_mistakes_are_found_before_anything_is_sent(wishes: dict[str, object], named: str) -> None:
    with pytest.raises(InvalidArgument, match=named):
        request_of("a red circle", wishes)


@pytest.mark.parametrize(
    "wishes", [{"num_inference_steps": 2**63}, {"width": 2**63}, {"guidance_scale": 1e300}, {"variant": "\udcff"}]
)
def test_what_no_tensor_can_hold_is_refused(wishes: dict[str, object]) -> None:
    with pytest.raises(InvalidArgument, match=next(iter(wishes))):
        run_call(MODEL, request_of("a red circle", wishes))


def test_cancelling_names_the_request() -> None:
    call = cancel_call("me")
    assert (call.model, call.inputs["op"].item(), call.parameters) == ("generate", b"cancel", {"request_id": "me"})


@pytest.mark.parametrize(
    ("deadline_ms", "timeout_s", "expected"),
    [(None, None, None), (None, 3.0, 3.0), (2000, None, 7.0), (2000, 1.0, 1.0)],
)
def test_patience(deadline_ms: int | None, timeout_s: float | None, expected: float | None) -> None:
    """Without a timeout, a deadline is waited for and a little longer."""
    assert patience_s(request_of("a red circle", {"deadline_ms": deadline_ms}), timeout_s) == expected


def test_a_stream_is_progress_and_at_last_a_picture() -> None:
    preview = np.zeros((8, 8, 3), np.uint8)
    early = event_of(progress(0, 25))
    assert isinstance(early, Progress) and (early.step, early.total) == (0, 25) and early.preview is None
    seen = event_of({**progress(3, 25), "image": preview})
    assert isinstance(seen, Progress) and (seen.step, seen.total) == (3, 25) and seen.preview is preview
    assert isinstance(event_of({**progress(25, 25), **a_picture()}), Picture)


def test_a_saved_picture_says_how_to_paint_it_again(tmp_path) -> None:
    picture = picture_of(a_picture(seed=123))
    metadata = read_metadata(picture.save(tmp_path / "x.png").read_bytes())
    assert metadata["seed"] == 123
    assert {f.name for f in fields(GenerateRequest)} & set(metadata) >= {"prompt", "seed", "num_inference_steps"}
    assert picture._repr_png_() == (tmp_path / "x.png").read_bytes()
