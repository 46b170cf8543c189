"""The Fréchet distance of Gaussians whose distance is known."""

from __future__ import annotations

import numpy as np
import pytest

from underpaint.bench.judging.frechet import PLENTY, Gaussian, frechet_distance


def samples(count: int, mean: float = 0.0, scale: float = 1.0, width: int = 8, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(mean, scale, (count, width))


def test_of_a_set_to_itself_it_is_nothing() -> None:
    features = Gaussian.of(samples(500))
    assert frechet_distance(features, features) == pytest.approx(0, abs=1e-9)


def test_means_apart() -> None:
    one, other = (Gaussian(np.full(3, mean), np.eye(3)) for mean in (0.0, 2.0))
    assert frechet_distance(one, other) == pytest.approx(3 * 4)


def test_variances_apart() -> None:
    """For diagonal covariances the squared distance is that of the standard deviations."""
    one = Gaussian(np.zeros(3), np.diag([1.0, 4.0, 9.0]))
    other = Gaussian(np.zeros(3), np.diag([4.0, 4.0, 1.0]))
    assert frechet_distance(one, other) == pytest.approx(1 + 0 + 4)


def test_covariances_that_do_not_commute() -> None:
    """Against the trace of the product's root by its eigenvalues, which are real for such a product."""
    random = np.random.default_rng(1)
    a, b = (m @ m.T for m in random.normal(size=(2, 5, 5)))
    roots = np.sqrt(np.linalg.eigvals(a @ b).real.clip(0))
    expected = np.trace(a) + np.trace(b) - 2 * roots.sum()
    zero = np.zeros(5)
    assert frechet_distance(Gaussian(zero, a), Gaussian(zero, b)) == pytest.approx(expected)
    assert frechet_distance(Gaussian(zero, b), Gaussian(zero, a)) == pytest.approx(expected)


def test_samples_of_known_gaussians() -> None:
    one, other = Gaussian.of(samples(20_000)), Gaussian.of(samples(20_000, mean=1.0, scale=2.0, seed=1))
    assert frechet_distance(one, other) == pytest.approx(8 * (1 + 1), rel=0.05)


def test_features_that_never_vary_do_no_harm() -> None:
    one, other = samples(300), samples(300, seed=1)
    one[:, 0] = other[:, 0] = 0.5
    assert np.isfinite(frechet_distance(Gaussian.of(one), Gaussian.of(other)))


def test_few_samples_are_shrunk_and_say_so() -> None:
    plenty, few = Gaussian.of(samples(PLENTY * 8)), Gaussian.of(samples(12))
    assert plenty.shrinkage == 0 and 0 < few.shrinkage <= 1
    np.testing.assert_allclose(plenty.covariance, np.cov(samples(PLENTY * 8), rowvar=False))


def test_shrinking_brings_few_samples_nearer_the_truth() -> None:
    truth = Gaussian(np.zeros(32), np.eye(32))
    rows = samples(40, width=32)
    counted = Gaussian(rows.mean(axis=0), np.cov(rows, rowvar=False))
    assert frechet_distance(Gaussian.of(rows), truth) < frechet_distance(counted, truth) / 2


def test_shrinkage_is_that_of_its_definition() -> None:
    rows = samples(20, width=4)
    covariance = np.cov(rows, rowvar=False)
    centred = rows - rows.mean(axis=0)
    error = sum(np.square(np.outer(x, x) - covariance).sum() for x in centred) / 20**2
    target = np.eye(4) * np.trace(covariance) / 4
    assert Gaussian.of(rows).shrinkage == pytest.approx(min(1, error / np.square(covariance - target).sum()))
