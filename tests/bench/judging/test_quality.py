"""Measures of pictures whose quality is known: true renders, renders of something else, and noise."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice

import numpy as np
import pytest

from tests.bench.fakes import SCENE, FakeEmbedder
from underpaint.bench.demand.workload import workload
from underpaint.bench.judging.quality import (
    Gallery,
    attribute_accuracy,
    diversity,
    examine,
    fresh_renders,
    quality,
    quality_ratios,
    ratio,
    sharing,
    unread,
)
from underpaint.build.tiny.judge import judge
from underpaint.build.tiny.scenes import Thing, render

ITEMS = list(islice(workload(5), 24))


def renders() -> Gallery:
    return fresh_renders(ITEMS, seed=1)


def test_true_renders_are_right() -> None:
    judged = examine(renders(), None)
    assert judged.accuracy.mean() > 0.97 and judged.all_right.mean() > 0.9
    assert quality(judged, judged).clip_score is None and quality(judged, judged).fid is None


def test_accuracy_is_the_share_of_what_was_said() -> None:
    """One of background, arrangement, and four attributes of two things is wrong."""
    other = replace(SCENE, things=(Thing("green", "circle", "small", "plain"), SCENE.things[1]))
    verdict = judge(np.asarray(render(other))[None], [SCENE])[0]
    assert attribute_accuracy(verdict) == pytest.approx(9 / 10)


def test_pictures_of_something_else_are_worse_in_every_way() -> None:
    truth, embedder = renders(), FakeEmbedder()
    wrong = Gallery(ITEMS, truth.pictures[::-1].copy() // 2, [None] * len(ITEMS))
    reference = examine(fresh_renders(ITEMS, seed=2), embedder)
    good, bad = examine(truth, embedder), examine(wrong, embedder)
    ratios = quality_ratios(bad, good, reference)
    assert ratios.accuracy is not None and ratios.accuracy < 0.7
    assert ratios.accuracy_low <= ratios.accuracy <= ratios.accuracy_high
    assert ratios.fid is not None and ratios.fid > 1
    assert quality(good, reference).fid_shrinkage > 0  # 24 pictures


def test_beside_itself_everything_is_one() -> None:
    truth = renders()
    judged = examine(Gallery(ITEMS, truth.pictures, ["same"] * len(ITEMS)), FakeEmbedder())
    assert quality(judged, unread(renders(), FakeEmbedder())) == quality(judged, examine(renders(), FakeEmbedder()))
    ratios = quality_ratios(judged, judged, examine(renders(), FakeEmbedder()))
    assert ratios.accuracy == ratios.accuracy_low == ratios.accuracy_high == ratios.clip == ratios.diversity == 1


def test_judged_pictures_can_be_picked_by_request() -> None:
    judged = examine(renders(), FakeEmbedder())
    few = judged.only({3, 7})
    assert few.indices == {3, 7}
    np.testing.assert_array_equal(few.gallery.pictures, judged.gallery.pictures[[3, 7]])
    np.testing.assert_array_equal(few.accuracy, judged.accuracy[[3, 7]])


def test_only_pictures_that_share_a_source_are_compared() -> None:
    assert sharing([None, "a", "b", "a", None, "a"]) == [[1, 3, 5]]


def test_diversity_is_the_distance_within_each_group() -> None:
    pictures = np.zeros((4, 2, 2, 3), np.uint8)
    pictures[1] = 255
    pictures[3, 0] = 255
    assert diversity(pictures, [[0, 1]]) == pytest.approx(1.0)
    assert diversity(pictures, [[0, 3]]) == pytest.approx(np.sqrt(0.5))
    assert diversity(pictures, [[0, 1], [0, 3]]) == pytest.approx((1 + np.sqrt(0.5)) / 2)
    assert diversity(pictures, []) is None


def test_a_ratio_of_nothing_is_nothing() -> None:
    assert ratio(1.0, 2.0) == 0.5
    assert ratio(None, 2.0) is ratio(1.0, None) is ratio(1.0, 0.0) is None
