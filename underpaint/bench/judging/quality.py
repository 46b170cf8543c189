"""How good served pictures are, each beside vanilla's picture of the same prompt and seed.

- accuracy: the share of what the caption says that the judge finds in the picture (background, arrangement, and each
  thing's colour, shape, size and texture), averaged over pictures; ``all_right``: the share of faultless ones. The
  judge shares nothing with what it judges.
- FID: against fresh renders of the same scenes, in the feature space of the family's CLIP.
- CLIP score: 100 times the cosine of caption and picture, 0 at least (Hessel et al. 2021, arXiv:2104.08718).
- diversity: how far apart the pictures of different requests are that share a source, in pixels (root mean square, as
  a share of the full range); every source counts once.
"""

from __future__ import annotations

import random
from collections.abc import Sequence, Set
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from underpaint.bench.common.progress import Progress
from underpaint.bench.demand.served import Served
from underpaint.bench.demand.workload import WorkItem
from underpaint.bench.judging.frechet import Gaussian, frechet_distance
from underpaint.build.tiny.edits import placed_anew
from underpaint.build.tiny.judge import Verdict, judge
from underpaint.build.tiny.scenes import Scene, render

ATTRIBUTES = ("colour", "shape", "size", "texture")
_BATCH = 32
_RESAMPLES = 1000


class Embedder(Protocol):
    """Something like ``Clip``."""

    def images(self, pictures: np.ndarray) -> np.ndarray: ...

    def texts(self, prompts: Sequence[str]) -> np.ndarray: ...


@dataclass(frozen=True, eq=False)
class Gallery:
    """The pictures that one policy served, in the order of ``items``.

    Attributes:
        pictures: uint8 [N, 64, 64, 3].
        sources: what each picture was painted from; None for noise.
    """

    items: Sequence[WorkItem]
    pictures: np.ndarray
    sources: Sequence[str | None]

    @classmethod
    def of(cls, served: Sequence[Served]) -> Gallery:
        return cls(
            [each.item for each in served],
            np.stack([each.image for each in served]),
            [each.account.source for each in served],
        )

    def only(self, places: Sequence[int]) -> Gallery:
        """The pictures at these places."""
        return Gallery([self.items[i] for i in places], self.pictures[places], [self.sources[i] for i in places])


@dataclass(frozen=True, eq=False)
class Judged:
    """A gallery and what was found of each of its pictures: arrays [N]; ``embeddings`` [N, D]."""

    gallery: Gallery
    accuracy: np.ndarray
    all_right: np.ndarray
    agreement: np.ndarray | None = None
    embeddings: np.ndarray | None = None

    @property
    def indices(self) -> set[int]:
        """Of the requests."""
        return {item.index for item in self.gallery.items}

    def only(self, indices: Set[int]) -> Judged:
        """What was found of the pictures of these requests."""
        kept = [place for place, item in enumerate(self.gallery.items) if item.index in indices]
        return Judged(
            self.gallery.only(kept),
            self.accuracy[kept],
            self.all_right[kept],
            None if self.agreement is None else self.agreement[kept],
            None if self.embeddings is None else self.embeddings[kept],
        )


@dataclass(frozen=True)
class Quality:
    """Of one policy. What needs a CLIP is None without one; diversity is None where no two pictures share a source."""

    accuracy: float
    all_right: float
    clip_score: float | None
    fid: float | None
    fid_shrinkage: float
    diversity: float | None


@dataclass(frozen=True)
class QualityRatios:
    """Of a policy to vanilla, on the same requests. For ``fid``, less is better.

    ``accuracy_low``, ``accuracy_high``: 95% of resamples of the requests give a ratio between them.
    """

    accuracy: float | None
    accuracy_low: float
    accuracy_high: float
    all_right: float | None
    clip: float | None
    fid: float | None
    diversity: float | None


# Judging --------------------------------------------------------------------------------------------------------


def examine(gallery: Gallery, embedder: Embedder | None, name: str = "pictures") -> Judged:
    """Have every picture read by the judge and, where there is one, embedded."""
    verdicts = read_all(gallery.pictures, [item.scene for item in gallery.items], name)
    accuracy = np.array([attribute_accuracy(verdict) for verdict in verdicts])
    all_right = np.array([verdict.all_right for verdict in verdicts])
    if embedder is None:
        return Judged(gallery, accuracy, all_right)
    embeddings = embedder.images(gallery.pictures)
    captions = embedder.texts([item.caption for item in gallery.items])
    return Judged(gallery, accuracy, all_right, np.einsum("nd,nd->n", embeddings, captions), embeddings)


def unread(gallery: Gallery, embedder: Embedder | None) -> Judged:
    """For FID alone, which asks no judge: pictures that are embedded at most."""
    unknown = np.full(len(gallery.items), np.nan)
    return Judged(gallery, unknown, unknown, None, None if embedder is None else embedder.images(gallery.pictures))


def read_all(pictures: np.ndarray, scenes: Sequence[Scene], name: str) -> list[Verdict]:
    """What the judge says of pictures, uint8 [N, 64, 64, 3], with a progress bar: it reads some 60 a second."""
    verdicts: list[Verdict] = []
    with Progress(len(scenes), "picture", f"judging {name}") as progress:
        for start in range(0, len(scenes), _BATCH):
            some = judge(pictures[start : start + _BATCH], scenes[start : start + _BATCH])
            verdicts += some
            progress.advance(len(some))
    return verdicts


def attribute_accuracy(verdict: Verdict) -> float:
    """The share of what the caption says that is so."""
    things = [getattr(thing, name) for thing in verdict.things for name in ATTRIBUTES]
    return float(np.mean([verdict.background, verdict.relation, *things]))


def fresh_renders(items: Sequence[WorkItem], seed: int) -> Gallery:
    """What perfect pictures of the requests would be."""
    rng = random.Random(f"fresh renders/{seed}")
    pictures = np.stack([np.asarray(render(placed_anew(rng, item.scene))) for item in items])
    return Gallery(items, pictures, [None] * len(items))


# Measures -------------------------------------------------------------------------------------------------------


def quality(judged: Judged, renders: Judged) -> Quality:
    """``renders``: fresh ones of the same scenes."""
    fid, shrinkage = _fid(judged, renders)
    return Quality(
        accuracy=float(judged.accuracy.mean()),
        all_right=float(judged.all_right.mean()),
        clip_score=None if judged.agreement is None else float(100 * np.clip(judged.agreement, 0, None).mean()),
        fid=fid,
        fid_shrinkage=shrinkage,
        diversity=diversity(judged.gallery.pictures, sharing(judged.gallery.sources)),
    )


def quality_ratios(judged: Judged, vanilla: Judged, renders: Judged) -> QualityRatios:
    """All of the same requests in the same order."""
    mine, theirs = quality(judged, renders), quality(vanilla, renders)
    low, high = _interval(judged.accuracy, vanilla.accuracy)
    groups = sharing(judged.gallery.sources)
    return QualityRatios(
        accuracy=ratio(mine.accuracy, theirs.accuracy),
        accuracy_low=low,
        accuracy_high=high,
        all_right=ratio(mine.all_right, theirs.all_right),
        clip=ratio(mine.clip_score, theirs.clip_score),
        fid=ratio(mine.fid, theirs.fid),
        diversity=ratio(mine.diversity, diversity(vanilla.gallery.pictures, groups)),
    )


def _fid(judged: Judged, renders: Judged) -> tuple[float | None, float]:
    """The distance, and how much the covariances had to be shrunk for it."""
    if judged.embeddings is None or renders.embeddings is None or len(judged.embeddings) < 2:
        return None, 0.0
    features = Gaussian.of(judged.embeddings)
    return frechet_distance(features, Gaussian.of(renders.embeddings)), features.shrinkage


def sharing(sources: Sequence[str | None]) -> list[list[int]]:
    """Places of pictures that share a source, two or more each."""
    by_source: dict[str, list[int]] = {}
    for place, source in enumerate(sources):
        if source is not None:
            by_source.setdefault(source, []).append(place)
    return [places for places in by_source.values() if len(places) > 1]


def diversity(pictures: np.ndarray, groups: Sequence[Sequence[int]]) -> float | None:
    """Mean over groups of the mean distance between the pictures of a group."""
    if not groups:
        return None
    return float(np.mean([_mean_distance(pictures[list(group)]) for group in groups]))


def ratio(one: float | None, other: float | None) -> float | None:
    return None if one is None or not other else one / other


def _mean_distance(pictures: np.ndarray) -> float:
    flat = pictures.reshape(len(pictures), -1).astype(np.float64) / 255
    products = flat @ flat.T
    squares = np.diag(products)
    between = np.triu_indices(len(flat), 1)
    squared = (squares[:, None] + squares[None] - 2 * products)[between] / flat.shape[1]
    return float(np.sqrt(np.clip(squared, 0, None)).mean())


def _interval(mine: np.ndarray, theirs: np.ndarray) -> tuple[float, float]:
    """95% of the ratio of means, over resampled requests (percentile bootstrap)."""
    draws = np.random.default_rng(0).integers(0, len(mine), (_RESAMPLES, len(mine)))
    means = np.maximum(theirs[draws].mean(axis=1), 1e-9)
    low, high = np.percentile(mine[draws].mean(axis=1) / means, [2.5, 97.5])
    return float(low), float(high)
