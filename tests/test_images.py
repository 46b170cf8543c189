"""A PNG says how it was made, whatever the language of its prompt."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from underpaint.errors import InvalidArgument
from underpaint.images import METADATA_KEY, read_images, read_metadata, to_base64, to_png

# What travels as JSON; a lone surrogate is no text and cannot be sent as UTF-8 either.
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
METADATA = st.dictionaries(
    TEXT, TEXT | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False) | st.booleans() | st.none(), max_size=6
)


def picture(height: int = 6, width: int = 4) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (height, width, 3), np.uint8)


@settings(max_examples=60, deadline=None)
@given(METADATA)
def test_metadata_comes_back_as_it_went_in(metadata: dict[str, Any]) -> None:
    assert read_metadata(to_png(picture(), metadata)) == metadata


@pytest.mark.parametrize(
    "prompt",
    ["ein kleiner roter Kreis über Blau", "赤い円", "دائرة حمراء", "👩‍🎨 at work", 'the quotes " and \\ and \n'],
)
def test_prompts_of_every_script_come_back(prompt: str) -> None:
    metadata = {"prompt": prompt, "seed": 2**63 - 1}
    png = to_png(picture(), metadata)
    assert read_metadata(png) == metadata
    with Image.open(io.BytesIO(png)) as image:
        assert image.text["parameters"] == f"prompt: {prompt}, seed: {2**63 - 1}"
        assert prompt[:3] in image.text[METADATA_KEY]  # readable without a JSON parser


def test_pixels_come_back_unchanged() -> None:
    pixels = picture(5, 9)
    with Image.open(io.BytesIO(to_png(pixels, {}))) as image:
        assert image.size == (9, 5)
        np.testing.assert_array_equal(np.asarray(image), pixels)


def test_a_png_from_elsewhere_has_no_metadata() -> None:
    buffer = io.BytesIO()
    Image.fromarray(picture()).save(buffer, format="PNG")
    assert read_metadata(buffer.getvalue()) == {}


def test_base64_is_the_same_file_as_text() -> None:
    png = to_png(picture(), {"seed": 1})
    assert base64.b64decode(to_base64(png), validate=True) == png
    assert METADATA_KEY == "underpaint"  # files that are out there are read by this name


def test_pictures_are_read_in_order_and_as_rgb(tmp_path: Path) -> None:
    levels = (10, 200)
    for level in levels:
        Image.fromarray(np.full((4, 6), level, np.uint8)).save(tmp_path / f"{level}.png")
    read = read_images("control_image", [tmp_path / f"{level}.png" for level in levels])
    assert read.shape == (2, 4, 6, 3) and read.dtype == np.uint8
    assert [int(each.min()) for each in read] == [int(each.max()) for each in read] == list(levels)


def test_what_is_no_picture_is_refused_by_the_fields_name(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no picture")
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    Image.new("RGB", (5, 4)).save(tmp_path / "b.png")
    wrong = {"holds a picture": ["text.png"], "No such file": ["none.png"], "one size": ["a.png", "b.png"]}
    for said, names in wrong.items():
        with pytest.raises(InvalidArgument, match=f"^control_image: got .*{said}"):
            read_images("control_image", [tmp_path / name for name in names])
