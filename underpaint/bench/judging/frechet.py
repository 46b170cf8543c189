"""The Fréchet distance between two sets of features, as FID takes it.

Heusel et al. 2017 (arXiv:1706.08500, section 3): both sets are taken for Gaussians, and

    d² = |m₁ - m₂|² + Tr(C₁ + C₂ - 2 (C₁ C₂)^½)

(Dowson and Landau 1982). The product's root has the trace of (C₁^½ C₂ C₁^½)^½, which is symmetric, so eigenvalues do.

With few samples the covariance of D features is rank-deficient and d² far too large. Where there are fewer than
``PLENTY`` samples a feature, covariances are shrunk towards a multiple of the identity by as much as Ledoit and Wolf
2004 ("A well-conditioned estimator for large-dimensional covariance matrices", lemma 3.2 to 3.4) find best, and the
distance says so: it is then only good for comparing sets of the same size in the same run.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

PLENTY = 10


@dataclass(frozen=True, eq=False)
class Gaussian:
    """``mean`` [D], ``covariance`` [D, D]. ``shrinkage``: 0 for the covariance as it was counted, up to 1."""

    mean: np.ndarray
    covariance: np.ndarray
    shrinkage: float = 0.0

    @classmethod
    def of(cls, features: np.ndarray) -> Gaussian:
        """Of samples [N, D]; N is 2 or more."""
        rows = np.asarray(features, dtype=np.float64)
        count, width = rows.shape
        mean = rows.mean(axis=0)
        covariance = np.cov(rows, rowvar=False).reshape(width, width)
        if count >= PLENTY * width:
            return cls(mean, covariance)
        amount = _shrinkage(rows - mean, covariance)
        target = np.eye(width) * np.trace(covariance) / width
        return cls(mean, (1 - amount) * covariance + amount * target, amount)


def frechet_distance(one: Gaussian, other: Gaussian) -> float:
    """d², 0 or more."""
    root = _root(one.covariance)
    between = np.linalg.eigvalsh(root @ other.covariance @ root)
    cross = np.sqrt(np.clip(between, 0, None)).sum()
    apart = np.square(one.mean - other.mean).sum()
    return max(0.0, float(apart + np.trace(one.covariance) + np.trace(other.covariance) - 2 * cross))


def _root(matrix: np.ndarray) -> np.ndarray:
    """Of a symmetric matrix without negative eigenvalues, but for rounding."""
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T


def _shrinkage(centred: np.ndarray, covariance: np.ndarray) -> float:
    """Ledoit and Wolf's share of the target: the covariance's own error over its distance from the target."""
    count, width = centred.shape
    target = np.eye(width) * np.trace(covariance) / width
    distance = np.square(covariance - target).sum()
    # The sum over samples of |x xᵀ - C|² by its parts, without the outer products.
    lengths = np.square(centred).sum(axis=1)
    leaning = np.einsum("nd,de,ne->n", centred, covariance, centred)
    error = (np.square(lengths) - 2 * leaning).sum() / count**2 + np.square(covariance).sum() / count
    return float(np.clip(error / distance, 0, 1)) if distance > 0 else 1.0
