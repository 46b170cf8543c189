"""Lookups that would be in vain are not made: a match predictor for every scope that is being asked for."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from underpaint.evidence.predictor import MatchPredictor
from underpaint.front_door.tally import Tally
from underpaint.latest import Latest

_SCOPES = 64  # that have a predictor: those asked for last
_WORDS = {True: "match", False: "none"}


class Foresight:
    """The predictors, and what becomes of their guesses."""

    def __init__(self, tally: Tally) -> None:
        self._tally = tally
        self._predictors: Latest[tuple[str, float], MatchPredictor] = Latest(_SCOPES)

    def consult(self, scope: str, reach: float, embedding: np.ndarray) -> Callable[[bool], None] | None:
        """None where a lookup is expected to be in vain; else whom to tell whether it found anything.

        ``reach``: the similarity from which an entry counts as found; ``embedding``: float32 [D].
        """
        predictor = self._of(scope, reach, len(embedding))
        guess = predictor.guess(embedding)
        if not guess.look:
            self._tally.predicted_misses[()] += 1
            return None

        def told(found: bool) -> None:
            predictor.learn(guess, found)
            if guess.check:
                self._tally.guesses[_WORDS[guess.match], _WORDS[found]] += 1

        return told

    def _of(self, scope: str, reach: float, dimensions: int) -> MatchPredictor:
        """The scope's; a new one where thresholds have changed since."""
        known = self._predictors.get((scope, reach))
        return known or self._predictors.put((scope, reach), MatchPredictor(dimensions, reach))
