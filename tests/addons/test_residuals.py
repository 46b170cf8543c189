"""Which skip each residual of a ControlNet is added to."""

from __future__ import annotations

import dataclasses

import pytest

from underpaint.addons.residuals import EncoderShape, residual_places
from underpaint.errors import InvalidArgument

SD = EncoderShape(4, 768, (320, 640, 1280, 1280), (2, 2, 2, 2))
DEEP = EncoderShape(16, 64, (64, 128), (6, 2))
SHALLOW = dataclasses.replace(DEEP, layers_per_block=(1, 1))


def test_a_copy_of_the_encoder_adds_to_every_skip_in_order() -> None:
    assert residual_places(SD, SD) == tuple(range(12))


def test_a_shallower_one_adds_to_the_last_skips_of_each_level() -> None:
    # conv_in and six layers, the downsampled, two layers
    assert residual_places(SHALLOW, DEEP) == (5, 6, 7, 9)


def test_residuals_have_the_shapes_of_the_skips_that_they_are_added_to() -> None:
    skips = DEEP.shapes(8, 8)
    assert [skips[place] for place in residual_places(SHALLOW, DEEP)] == SHALLOW.shapes(8, 8)
    assert skips == [(64, 8, 8)] * 7 + [(64, 4, 4)] + [(128, 4, 4)] * 2


def test_config_json_may_say_one_number_for_all_levels() -> None:
    config = {"in_channels": 16, "cross_attention_dim": 64, "block_out_channels": [64, 128], "layers_per_block": 1}
    assert EncoderShape.of(config) == SHALLOW


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"block_out_channels": (64, 64)}, "block_out_channels"),
        ({"cross_attention_dim": 96}, "cross_attention_dim"),
        ({"in_channels": 4}, "in_channels"),
        ({"layers_per_block": (7, 2)}, "layers_per_block"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(changed: dict[str, object], named: str) -> None:
    with pytest.raises(InvalidArgument, match=rf"^ControlNet: {named}: got .*; allowed: "):
        residual_places(dataclasses.replace(DEEP, **changed), DEEP)  # type: ignore[arg-type]
