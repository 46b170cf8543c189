"""The match predictor: it expects a match until it knows better, and it rarely loses one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest

from underpaint.evidence.predictor import MatchPredictor

DIMENSIONS = 32


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


def traffic(count: int, seed: int = 1) -> Iterator[tuple[np.ndarray, bool]]:
    """Prompts and whether the cache knows similar ones: those about a few popular topics, and not the others."""
    random = np.random.default_rng(seed)
    topics = unit(random.standard_normal((10, DIMENSIONS)))
    for _ in range(count):
        popular = bool(random.random() < 0.5)
        near = topics[random.integers(10)] + 0.05 * random.standard_normal(DIMENSIONS)
        yield unit(near if popular else random.standard_normal(DIMENSIONS)), popular


def guesses(predictor: MatchPredictor, count: int, seed: int = 1) -> Counter[tuple[bool, bool]]:
    """How often what was guessed, and what was so; the predictor hears of what was looked up."""
    seen: Counter[tuple[bool, bool]] = Counter()
    for embedding, known in traffic(count, seed):
        guess = predictor.guess(embedding)
        seen[guess.match, known] += 1
        if guess.look:
            predictor.learn(guess, known)
    return seen


def test_before_it_knows_anything_a_match_is_expected() -> None:
    predictor = MatchPredictor(DIMENSIONS, reach=0.8)
    for embedding, _ in traffic(200):
        guess = predictor.guess(embedding)
        assert guess.match and guess.check
        predictor.learn(guess, found=False)


def test_it_learns_which_lookups_are_in_vain_and_loses_few_matches() -> None:
    predictor = MatchPredictor(DIMENSIONS, reach=0.8)
    guesses(predictor, 1000)
    seen = guesses(predictor, 2000, seed=1)
    assert seen[False, True] / (seen[True, True] + seen[False, True]) < 0.06
    assert seen[False, False] / (seen[True, False] + seen[False, False]) > 0.5


def test_matches_are_not_lost_bit_by_bit_to_its_own_guesses() -> None:
    """Only what is looked up whatever the guess moves the boundary; else it would rise with each batch of matches."""
    predictor = MatchPredictor(DIMENSIONS, reach=0.8)
    guesses(predictor, 1000)
    for _ in range(5):
        seen = guesses(predictor, 1500)
        assert seen[False, True] / (seen[True, True] + seen[False, True]) < 0.1


def test_some_are_checked_whatever_the_guess() -> None:
    predictor = MatchPredictor(DIMENSIONS, reach=0.8, check_every=10, needed=16)
    guesses(predictor, 300)
    checked = [predictor.guess(embedding).check for embedding, _ in traffic(500)]
    assert sum(checked) == 50


def test_it_follows_when_other_topics_become_popular() -> None:
    predictor = MatchPredictor(DIMENSIONS, reach=0.8, check_every=5)
    guesses(predictor, 1000, seed=1)
    guesses(predictor, 4000, seed=2)
    seen = guesses(predictor, 1000, seed=2)
    assert seen[False, True] / (seen[True, True] + seen[False, True]) < 0.1


@pytest.mark.parametrize("reach", [-1.0, 0.0, 0.25, 0.99, 1.0])
def test_any_reach_gives_finite_scores(reach: float) -> None:
    predictor = MatchPredictor(DIMENSIONS, reach=reach)
    for embedding, known in traffic(300):
        guess = predictor.guess(embedding)
        assert np.isfinite(guess.score)
        predictor.learn(guess, known)
