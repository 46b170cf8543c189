"""The request refuses what cannot be served and names the field; what it accepts, it keeps."""

from __future__ import annotations

import math
from dataclasses import FrozenInstanceError, fields
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from underpaint.errors import InvalidArgument
from underpaint.requests import (
    CACHE_MODES,
    MAX_DEADLINE_MS,
    MAX_PROMPT_CHARACTERS,
    MAX_SEED,
    OUTPUT_FORMATS,
    SERVICE_CLASSES,
    GenerateRequest,
    input_fields,
    python_type,
)
from underpaint.wishes import MAX_LORAS, ON_MISSING_LORA, ControlNetWish, parse_controlnets

NAMES = [f.name for f in fields(GenerateRequest)]
INTEGERS = ["num_inference_steps", "seed", "width", "height", "deadline_ms", "slo_ms"]
TEXTS = [
    "prompt",
    "negative_prompt",
    "scheduler",
    "variant",
    "policy",
    "output_format",
    "request_id",
    "cache",
    "tenant",
    "service_class",
    "lora",
    "on_missing_lora",
    "controlnet",
]
FLAGS = ("previews", "controlnet_stale", "guidance_split")

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
PROMPT = TEXT.filter(lambda text: text.strip())
REQUEST_ID = st.from_regex(r"[A-Za-z0-9_.:@-]{1,128}", fullmatch=True)
AT_LEAST_1 = st.integers(1, 2**31 - 1)

IN_RANGE: dict[str, st.SearchStrategy[Any]] = {
    "prompt": PROMPT,
    "negative_prompt": TEXT,
    "num_inference_steps": AT_LEAST_1,
    "guidance_scale": st.floats(0, 1e30),
    "seed": st.integers(0, MAX_SEED),
    "width": AT_LEAST_1,
    "height": AT_LEAST_1,
    "scheduler": TEXT,
    "variant": TEXT,
    "policy": TEXT,
    "output_format": st.sampled_from(OUTPUT_FORMATS),
    "request_id": REQUEST_ID,
    "deadline_ms": st.integers(1, MAX_DEADLINE_MS),
    "slo_ms": st.integers(1, MAX_DEADLINE_MS),
    "service_class": st.sampled_from(SERVICE_CLASSES),
    "cache": st.sampled_from(CACHE_MODES),
    "tenant": st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", fullmatch=True),
    **dict.fromkeys(FLAGS, st.booleans()),
    "lora": st.sampled_from(["night", "night:0.8", "night:-2, palette_2.v1:0", "a:1e-3,b,c"]),
    "on_missing_lora": st.sampled_from(ON_MISSING_LORA),
}

OUT_OF_RANGE: dict[str, st.SearchStrategy[Any]] = {
    "prompt": st.text(" \t\n\r", max_size=5) | st.just("x" * (MAX_PROMPT_CHARACTERS + 1)),
    "negative_prompt": st.just("x" * (MAX_PROMPT_CHARACTERS + 1)),
    "num_inference_steps": st.integers(max_value=0),
    "guidance_scale": st.floats(max_value=-1e-30) | st.sampled_from([math.nan, math.inf]) | st.integers(max_value=-1),
    "seed": st.integers(max_value=-1) | st.integers(MAX_SEED + 1),
    "width": st.integers(max_value=0),
    "height": st.integers(max_value=0),
    "output_format": TEXT.filter(lambda text: text not in OUTPUT_FORMATS),
    "lora": st.sampled_from(
        [
            "../night",
            "night:",
            "night:nan",
            "night:inf",
            "night:11",
            "night:x",
            "a,a",
            ",",
            "a:1:2",
            "/etc/passwd",
            ",".join(f"l{i}" for i in range(MAX_LORAS + 1)),
        ]
    ),
    "controlnet": st.sampled_from(
        ["../layout", "layout:", "layout:nan", "layout:11", "a,a", "a:1:0.5", "a:1:1:0", "a:1:0:2"]
    ),
    "on_missing_lora": TEXT.filter(lambda text: text not in ON_MISSING_LORA),
    "cache": TEXT.filter(lambda text: text not in CACHE_MODES),
    "tenant": st.sampled_from(["", " ", "a b", "a/b", "../a", ".a", "größe", "a\n", "a:b", "x" * 65]),
    "request_id": st.sampled_from(["", " ", "a b", 'a"b', "a\n", "x" * 129, "a/b"]),
    "deadline_ms": st.integers(max_value=0) | st.integers(MAX_DEADLINE_MS + 1),
    "slo_ms": st.integers(max_value=0) | st.integers(MAX_DEADLINE_MS + 1),
    "service_class": TEXT.filter(lambda text: text not in SERVICE_CLASSES),
}

WRONG_TYPE: dict[str, st.SearchStrategy[Any]] = {
    **dict.fromkeys(TEXTS, st.integers() | st.floats() | st.booleans() | st.lists(st.integers(), max_size=2)),
    **dict.fromkeys(INTEGERS, st.floats() | st.booleans() | TEXT | TEXT.map(str.encode)),
    "guidance_scale": st.booleans() | TEXT | st.lists(st.floats(), max_size=1),
    **dict.fromkeys(FLAGS, st.integers() | TEXT),
    "control_image": st.integers() | TEXT | st.booleans(),
}


def test_every_field_has_values_to_try() -> None:
    together = {"controlnet", "control_image"}  # neither goes without the other
    assert set(IN_RANGE) | together == set(NAMES) == set(WRONG_TYPE)
    unlimited = {"scheduler", "variant", "policy", *FLAGS}  # known to the deployment only, or with nothing to limit
    assert set(OUT_OF_RANGE) | {"control_image"} == set(NAMES) - unlimited


@settings(max_examples=100, deadline=None)
@given(st.fixed_dictionaries({"prompt": PROMPT}, optional={n: s for n, s in IN_RANGE.items() if n != "prompt"}))
def test_what_is_in_range_is_kept(raw: dict[str, Any]) -> None:
    request = GenerateRequest.parse(raw)
    assert {name: getattr(request, name) for name in raw} == raw


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(sorted(OUT_OF_RANGE)).flatmap(lambda name: st.tuples(st.just(name), OUT_OF_RANGE[name])))
def test_what_is_out_of_range_is_refused_by_name(case: tuple[str, Any]) -> None:
    name, value = case
    with pytest.raises(InvalidArgument) as caught:
        GenerateRequest.parse({"prompt": "a circle", name: value})
    assert str(caught.value).startswith(f"{name}: got ")
    assert "; allowed: " in str(caught.value)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(NAMES).flatmap(lambda name: st.tuples(st.just(name), WRONG_TYPE[name])))
def test_a_wrong_type_is_refused_by_name(case: tuple[str, Any]) -> None:
    name, value = case
    allowed = "(a string|an integer|a number|true or false|an array)"
    with pytest.raises(InvalidArgument, match=f"^{name}: got .*; allowed: {allowed}$"):
        GenerateRequest.parse({"prompt": "a circle", name: value})


@pytest.mark.parametrize("name", INTEGERS)
@pytest.mark.parametrize("flag", [True, False])
def test_a_bool_is_no_integer(name: str, flag: bool) -> None:
    with pytest.raises(InvalidArgument, match=f"^{name}: got {flag}; allowed: an integer"):
        GenerateRequest.parse({"prompt": "a circle", name: flag})


def test_an_integer_is_a_number_too() -> None:
    request = GenerateRequest.parse({"prompt": "a circle", "guidance_scale": 7})
    assert request.guidance_scale == 7.0
    assert type(request.guidance_scale) is float


def test_an_integer_beyond_every_float_is_refused_like_infinity() -> None:
    with pytest.raises(InvalidArgument, match=r"^guidance_scale: "):
        GenerateRequest.parse({"prompt": "a circle", "guidance_scale": 10**400})


@settings(max_examples=50, deadline=None)
@given(PROMPT, st.sampled_from(["prompt", "negative_prompt", "scheduler"]))
def test_bytes_are_read_as_utf8(text: str, name: str) -> None:
    raw = {"prompt": b"a circle", name: text.encode()}
    assert getattr(GenerateRequest.parse(raw), name) == text


@pytest.mark.parametrize("name", TEXTS)
def test_bytes_that_are_not_utf8_are_refused_and_the_place_told(name: str) -> None:
    with pytest.raises(InvalidArgument, match=rf"^{name}: got b'ok\\xff'; allowed: UTF-8 text \(byte 2 is not\)"):
        GenerateRequest.parse({"prompt": "a circle", name: b"ok\xff"})


@pytest.mark.parametrize("name", ["prompt", "negative_prompt"])
def test_half_a_surrogate_pair_is_no_text(name: str) -> None:
    with pytest.raises(InvalidArgument, match=f"^{name}: .*UTF-8"):
        GenerateRequest.parse({"prompt": "a circle", name: "\ud800"})


@settings(max_examples=30, deadline=None)
@given(TEXT.filter(lambda name: name not in NAMES))
def test_an_unknown_name_is_refused_and_the_known_ones_listed(name: str) -> None:
    with pytest.raises(InvalidArgument, match=r"^parameter name: got ") as caught:
        GenerateRequest.parse({"prompt": "a circle", name: 1})
    assert all(known in str(caught.value) for known in NAMES)


def test_only_the_prompt_is_needed() -> None:
    request = GenerateRequest.parse({"prompt": "a circle"})
    assert (request.prompt, request.negative_prompt, request.output_format) == ("a circle", "", "tensor")
    made = {"prompt", "negative_prompt", "output_format", "cache", "tenant", "service_class", *FLAGS}
    open_choices = set(NAMES) - made
    assert {name for name in NAMES if getattr(request, name) is None} == open_choices


@pytest.mark.parametrize("raw", [{}, {"prompt": None}, {"seed": 1}])
def test_the_prompt_is_needed(raw: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument, match=r"^prompt: got ''"):
        GenerateRequest.parse(raw)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "prompt"])
def test_none_means_not_given(name: str) -> None:
    assert GenerateRequest.parse({"prompt": "a circle", name: None}) == GenerateRequest("a circle")


def test_limits_themselves_are_allowed() -> None:
    prompt = "x" * MAX_PROMPT_CHARACTERS
    request = GenerateRequest(prompt, prompt, 1, 0.0, MAX_SEED, 1, 1, request_id="x" * 128, deadline_ms=1)
    assert (request.prompt, request.seed, request.guidance_scale) == (prompt, MAX_SEED, 0.0)


def test_the_constructor_checks_ranges_too() -> None:
    with pytest.raises(InvalidArgument, match=r"^seed: got -1"):
        GenerateRequest("a circle", seed=-1)


def test_a_request_cannot_be_changed_under_way() -> None:
    request = GenerateRequest("a circle")
    with pytest.raises(FrozenInstanceError):
        request.seed = 3  # type: ignore[misc]


def test_every_field_but_the_parameters_travels_as_a_tensor() -> None:
    parameters = ("tenant", *FLAGS, "request_id", "deadline_ms", "slo_ms", "service_class")
    assert [f.name for f in input_fields()] == [name for name in NAMES if name not in parameters]


def test_tensor_types_fit_python_types() -> None:
    fitting = {str: {"STRING"}, int: {"INT64"}, float: {"FP32"}, np.ndarray: {"UINT8"}}
    for declared in input_fields():
        assert declared.metadata["dtype"] in fitting[python_type(declared)], declared.name


def test_every_field_says_what_it_is() -> None:
    assert all(len(f.metadata["help"]) > 3 for f in fields(GenerateRequest))


@pytest.mark.parametrize(
    ("mode", "reads", "writes"),
    [
        ("readwrite", True, True),
        ("read", True, False),
        ("write", False, True),
        ("off", False, False),
        ("reproducible", False, True),
    ],
)
def test_what_the_cache_modes_mean(mode: str, reads: bool, writes: bool) -> None:
    request = GenerateRequest("a circle", cache=mode)
    assert (request.reads_cache, request.writes_cache) == (reads, writes)


def test_loras_are_read_with_their_scales() -> None:
    request = GenerateRequest("a circle", lora="night:0.8, palette_2.v1")
    assert [(wish.name, wish.scale) for wish in request.loras] == [("night", 0.8), ("palette_2.v1", 1.0)]
    assert GenerateRequest("a circle").loras == ()


def picture(count: int = 1) -> np.ndarray:
    return np.zeros((count, 64, 64, 3), np.uint8)


def test_controlnets_are_read_with_scale_and_span() -> None:
    request = GenerateRequest("a circle", controlnet="layout:0.8:0:0.5, edges", control_image=picture(2))
    assert request.controlnets == (ControlNetWish("layout", 0.8, 0.0, 0.5), ControlNetWish("edges"))
    assert parse_controlnets(",".join(map(str, request.controlnets))) == request.controlnets


def test_one_control_image_is_for_all_controlnets() -> None:
    one = GenerateRequest("a circle", controlnet="layout,edges", control_image=picture())
    assert [image.shape for image in one.control_images] == [(64, 64, 3)] * 2
    assert GenerateRequest("a circle").control_images == ()


@pytest.mark.parametrize(
    ("controlnet", "image"),
    [
        ("layout", None),
        (None, picture()),
        ("layout", picture(2)),
        ("a,b,c", picture(2)),
        ("layout", picture()[0]),
        ("layout", picture().astype(np.float32)),
        ("layout", picture()[..., :1]),
    ],
)
def test_a_control_image_that_does_not_fit_is_refused(controlnet: str | None, image: np.ndarray | None) -> None:
    with pytest.raises(InvalidArgument, match=r"^control_image: got .*; allowed: "):
        GenerateRequest("a circle", controlnet=controlnet, control_image=image)
