"""Prompts as vectors without a model: which words they have, each weighted by how rare it is.

Hashed TF-IDF over words and pairs of neighbouring words. It knows spelling, not meaning: two ways to say the same are
far apart, so hit rates come out lower than a sentence embedder's. Strategies can be compared by it, and sizes; a
published hit rate cannot.
"""

from __future__ import annotations

import re
import zlib
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

NAME = "hashed TF-IDF of words and word pairs (no model: similarities are lower than a sentence embedder's)"

_DIMENSION = 1024
_WORD = re.compile(r"\w+")


def embed(prompts: Sequence[str]) -> np.ndarray:
    """float32 [n, 1024], of length 1; how rare a word is follows from these prompts."""
    terms = [_terms(prompt) for prompt in prompts]
    spread = Counter(term for own in terms for term in own)
    vectors = np.zeros((len(prompts), _DIMENSION), np.float32)
    for row, own in zip(vectors, terms, strict=True):
        for term, times in own.items():
            place, sign = _hashed(term)
            row[place] += sign * (1 + np.log(times)) * (1 + np.log(len(prompts) / spread[term]))
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(lengths > 0, lengths, 1)


def _terms(prompt: str) -> Counter[str]:
    words = _WORD.findall(prompt.lower())
    return Counter([*words, *(f"{one} {two}" for one, two in pairwise(words))])


def _hashed(term: str) -> tuple[int, int]:
    """Place and sign: with signs, collisions cancel on average instead of adding up."""
    code = zlib.crc32(term.encode())
    return (code >> 1) % _DIMENSION, 1 if code & 1 else -1
