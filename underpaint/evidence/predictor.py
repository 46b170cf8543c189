"""Whether a lookup will find anything, guessed before it is made (Nirvana's match predictor).

A one-class support vector machine (Schölkopf et al., 2001) over random Fourier features (Rahimi and Recht, 2007). Its
one class are the requests that had a match, each learnt as it comes by a gradient step of fixed size, so that what was
popular long ago is forgotten. (Nirvana's class is what is stored. But what is stored and never asked for again looks
like that too: in simulated streams of popular and fresh prompts, the area under the ROC curve was 0.8 to 0.35.)

Where the boundary lies is not left to theory either. Now and then a lookup is made whatever the guess, and its outcome
sets the boundary: below it are at most ``missed`` of those that had a match. Until enough is known, a match is always
expected; a wrong guess costs a picture's worth of steps, a lookup only a millisecond.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field

import numpy as np

_RATE = 0.01  # of a gradient step: about the last hundred matches count
_OUTSIDE = 0.5  # the share of the class that may lie outside its boundary (ν)
_SEED = 0  # of the features


@dataclass(frozen=True, eq=False)
class Guess:
    """``match``: whether one is expected. ``check``: look all the same, because the outcome is to be learnt from."""

    match: bool
    check: bool
    features: np.ndarray
    score: float

    @property
    def look(self) -> bool:
        return self.match or self.check


@dataclass(eq=False)
class MatchPredictor:
    """The predictor of one scope. Not safe for use from several threads.

    Attributes:
        dimensions: of an embedding.
        reach: the similarity from which an entry is a match; features look about as far.
        features: random features; memory is 4·features·dimensions bytes, and so many operations make a guess.
        check_every: one lookup in so many is made whatever the guess.
        missed: the share of matches that may be lost to wrong guesses.
        needed: matches that must have been seen before any is thought not to be there.
    """

    dimensions: int
    reach: float
    features: int = 512
    check_every: int = 20
    missed: float = 0.02
    needed: int = 64
    _guesses: int = field(default=0, init=False)
    _offset: float = field(default=0.0, init=False)
    _boundary: float = field(default=-math.inf, init=False)

    def __post_init__(self) -> None:
        random = np.random.default_rng(_SEED)
        # A Gaussian kernel exp(−γ |x − y|²) over unit vectors, where |x − y|² = 2 (1 − cosine): 1/e at the reach.
        gamma = 1.0 / (2.0 * max(1.0 - self.reach, 1e-3))
        frequencies = random.standard_normal((self.dimensions, self.features)) * math.sqrt(2.0 * gamma)
        self._frequencies = frequencies.astype(np.float32)
        self._phases = random.uniform(0.0, 2.0 * math.pi, self.features).astype(np.float32)
        self._weights = np.zeros(self.features, np.float32)
        # Of those that were checked and had a match; not their scores, which change with the weights.
        self._sample: deque[np.ndarray] = deque(maxlen=4 * self.needed)

    def guess(self, embedding: np.ndarray) -> Guess:
        """``embedding``: float32 [D], of unit length."""
        self._guesses += 1
        features = np.cos(embedding @ self._frequencies + self._phases) * np.float32(math.sqrt(2.0 / self.features))
        score = float(features @ self._weights)
        check = len(self._sample) < self.needed or self._guesses % self.check_every == 0
        return Guess(score >= self._boundary, check, features, score)

    def learn(self, guess: Guess, found: bool) -> None:
        """What the lookup after ``guess`` found."""
        if not found:
            return
        outside = guess.score < self._offset
        self._weights *= np.float32(1.0 - _RATE * _OUTSIDE)
        if outside:
            self._weights += np.float32(_RATE) * guess.features
        self._offset += _RATE * (_OUTSIDE - outside)
        if guess.check:  # the others are no fair sample: had they been below the boundary, nobody had looked
            self._sample.append(guess.features)
            if len(self._sample) >= self.needed:
                self._boundary = float(np.quantile(np.stack(self._sample) @ self._weights, self.missed))
