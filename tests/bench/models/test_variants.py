from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from tests.bench.models.test_instruments import Pixels
from underpaint.bench.judging.flops import VariantCost
from underpaint.bench.models.instruments import draw
from underpaint.bench.models.variants import Size, VariantReport, captions_of, curve_steps, measure_variant, scenes_of
from underpaint.build.tiny.scenes import is_held_out
from underpaint.deployment import Variant

VARIANT = Variant("tiny-x", 8, 50, 3.0, 20.0, ((64, 64),), ("euler",), 22)
COST = VariantCost(unet=0.1, text_encoder=0.01, vae_encoder=0.2, vae_decoder=0.3)
SIZE = Size(unseen=12, held_out=8, curve=4)


def _painter(faulty: bool) -> tuple[VariantReport, list[tuple[int, int | None]]]:
    """A variant that paints what it is told, or always the first scene."""
    unseen, held_out = scenes_of(SIZE)
    known = dict(zip(captions_of(unseen) + captions_of(held_out), draw(unseen + held_out), strict=True))
    calls: list[tuple[int, int | None]] = []

    def paint(variant: str, captions: Sequence[str], steps: int | None) -> np.ndarray:
        assert variant == VARIANT.name
        calls.append((len(captions), steps))
        return np.stack([known[captions[0] if faulty else caption] for caption in captions])

    return measure_variant(VARIANT, COST, Pixels(), paint, SIZE), calls


def test_a_perfect_variant() -> None:
    report, calls = _painter(faulty=False)
    assert report.unseen["all"] == report.held_out["all"] == 1
    assert report.fid == pytest.approx(0, abs=1e-6)
    assert report.gflop_per_image == pytest.approx(8 * 2 * 0.1 + 2 * 0.01 + 0.3)
    assert calls == [(12, None), (8, None)] + [(4, steps) for steps in curve_steps(VARIANT)]
    assert report.curve == dict.fromkeys(sorted([8, *curve_steps(VARIANT)]), 1.0)


def test_a_variant_that_does_not_listen() -> None:
    report, _ = _painter(faulty=True)
    assert report.unseen["all"] == pytest.approx(1 / 12)
    assert report.fid > 0.01


def test_the_report_names_what_the_readme_names() -> None:
    report, _ = _painter(faulty=True)
    assert {"all_correct", "all_correct_heldout", "fid", "gflop_per_image", "steps"} < set(report.to_json())


def test_held_out_scenes_hold_something_never_shown() -> None:
    unseen, held_out = scenes_of(SIZE)
    assert not any(is_held_out(thing) for scene in unseen for thing in scene.things)
    assert all(any(map(is_held_out, scene.things)) for scene in held_out)


def test_the_curve_lies_around_the_default() -> None:
    assert curve_steps(VARIANT) == [2, 3, 4, 6, 10, 15]
