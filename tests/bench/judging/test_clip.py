"""The family's CLIP as the repository has it: on true renders it finds what captions say."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from underpaint.bench.demand.workload import Relation, workload
from underpaint.bench.judging.clip import Clip
from underpaint.bench.judging.quality import fresh_renders
from underpaint.errors import InvalidArgument

REPOSITORY = Path(__file__).resolve().parents[3] / "model_repository"


def test_captions_find_their_pictures() -> None:
    if not (REPOSITORY / "embed_image").is_dir():
        pytest.skip("the repository has no embedders")
    clip = Clip(REPOSITORY, "tiny")
    items = list(islice((item for item in workload(3) if item.relation is Relation.FRESH), 70))
    pictures, texts = clip.images(fresh_renders(items, 0).pictures), clip.texts([item.caption for item in items])
    np.testing.assert_allclose(np.linalg.norm(pictures, axis=1), 1, atol=1e-4)
    np.testing.assert_allclose(np.linalg.norm(texts, axis=1), 1, atol=1e-4)
    found = (texts @ pictures.T).argmax(axis=1)
    assert (found == np.arange(len(items))).mean() > 0.8


def test_equal_prompts_are_embedded_equally() -> None:
    if not (REPOSITORY / "embed_text").is_dir():
        pytest.skip("the repository has no embedders")
    first, other, again = Clip(REPOSITORY, "tiny").texts(["a red circle", "a blue ring", "a red circle"])
    assert (first == again).all() and (first != other).any()


def test_a_repository_without_embedders_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="embed_image"):
        Clip(tmp_path, "tiny")
