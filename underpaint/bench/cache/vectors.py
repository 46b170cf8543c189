"""Vectors as a text-to-image embedder makes them, without one.

The two towers of a CLIP keep apart: images lie in one narrow cone, texts in another, and what a text shares with its
image is a small part of either. Here a vector is √.36 of its modality's axis, √.30 of what it means, √.34 of noise of
its own; the two axes are 78° apart. So texts lie far from all images, cosines are small (the best of 50,000 images is
at about 0.35 of a text, the mean at 0.08) and close together, which is the hard case for an approximate index: its
lists are learnt from images, and texts are none. Meanings, in 64 dimensions, cluster around 2,000 topics of Zipf
popularity.
"""

from __future__ import annotations

import numpy as np

_MEANING_DIMENSIONS = 64
_TOPICS = 2000
_AXIS, _MEANING, _NOISE = np.sqrt([0.36, 0.30, 0.34])
_WITHIN_TOPIC = 0.09  # per dimension, beside a topic of length 1
_REWORDED = 0.03  # how far what a text asks for is from an image that was painted before
_BETWEEN_AXES = 0.2  # their cosine


class World:
    """The geometry, the same whenever the dimension is; what is drawn comes from ``random``. All float32, length 1."""

    def __init__(self, dimension: int) -> None:
        random = np.random.default_rng(0)
        basis = np.linalg.qr(random.standard_normal((dimension, dimension)))[0].astype(np.float32).T
        self._meanings, self._rest = basis[:_MEANING_DIMENSIONS], basis[_MEANING_DIMENSIONS + 2 :]
        self._image_axis, across = basis[_MEANING_DIMENSIONS : _MEANING_DIMENSIONS + 2]
        self._text_axis = _units(_BETWEEN_AXES * self._image_axis + np.sqrt(1 - _BETWEEN_AXES**2) * across)
        self._topics = _units(random.standard_normal((_TOPICS, _MEANING_DIMENSIONS), np.float32))
        weights = 1 / np.arange(1, _TOPICS + 1)
        self._popularity = weights / weights.sum()

    def meanings(self, random: np.random.Generator, count: int) -> np.ndarray:
        """[count, 64]"""
        topics = self._topics[random.choice(_TOPICS, count, p=self._popularity)]
        return _near(random, topics, _WITHIN_TOPIC)

    def reworded(self, random: np.random.Generator, meanings: np.ndarray) -> np.ndarray:
        """Almost the same meanings."""
        return _near(random, meanings, _REWORDED)

    def images(self, random: np.random.Generator, meanings: np.ndarray) -> np.ndarray:
        """An image for each meaning, [count, D]."""
        return self._embedded(random, meanings, self._image_axis)

    def texts(self, random: np.random.Generator, meanings: np.ndarray) -> np.ndarray:
        """A text for each meaning, [count, D]."""
        return self._embedded(random, meanings, self._text_axis)

    def _embedded(self, random: np.random.Generator, meanings: np.ndarray, axis: np.ndarray) -> np.ndarray:
        noise = _units(random.standard_normal((len(meanings), len(self._rest)), np.float32)) @ self._rest
        return _units(_AXIS * axis + _MEANING * (meanings @ self._meanings) + _NOISE * noise)


def _near(random: np.random.Generator, meanings: np.ndarray, distance: float) -> np.ndarray:
    return _units(meanings + distance * random.standard_normal(meanings.shape, np.float32))


def _units(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32, copy=False)
