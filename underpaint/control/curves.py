"""What splitting requests between a small and a large variant is worth: single splits, and curves of them."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

from underpaint.errors import InvalidArgument


@dataclass(frozen=True)
class Cascade:
    """A way to split requests between two variants, and how bad the images are that come of it.

    ``direct`` (θ): share of the requests that the router sends straight to the large variant; ``deferred`` (τ): share
    of the others whose small image the discriminator rejects.
    """

    small: str
    large: str
    direct: float
    deferred: float
    loss: float

    def __post_init__(self) -> None:
        for name in ("direct", "deferred"):
            if not 0 <= getattr(self, name) <= 1:
                raise InvalidArgument.of(f"cascade: {name}", getattr(self, name), "a share, 0 to 1")

    @property
    def large_share(self) -> float:
        """r = θ + (1 - θ)τ: share of all requests that the large variant paints."""
        return self.direct + (1 - self.direct) * self.deferred


@dataclass(frozen=True)
class Mix:
    """Loss against the share of images that the large variant paints, the discriminator choosing which."""

    small: str
    large: str
    large_shares: tuple[float, ...]
    losses: tuple[float, ...]

    def __post_init__(self) -> None:
        _check_curve(f"mix of {self.small} and {self.large}", self.large_shares, self.losses)

    def loss(self, large_share: float) -> float:
        return interpolate(self.large_shares, self.losses, large_share)


@dataclass(frozen=True)
class Deferral:
    """f(t): share of the small variant's images whose confidence is below t, for every t of a rising grid."""

    small: str
    thresholds: tuple[float, ...]
    shares: tuple[float, ...]

    def __post_init__(self) -> None:
        _check_curve(f"deferral of {self.small}", self.thresholds, self.shares)
        if any(not 0 <= each <= 1 for each in self.shares):
            raise InvalidArgument.of(f"deferral of {self.small}", self.shares, "shares, 0 to 1")

    def share(self, threshold: float) -> float:
        return interpolate(self.thresholds, self.shares, threshold)


def interpolate(xs: Sequence[float], ys: Sequence[float], x: float) -> float:
    """The curve through the points, by straight lines; level beyond its ends."""
    at = bisect_left(xs, x)
    if at == 0 or at == len(xs):
        return ys[min(at, len(ys) - 1)]
    share = (x - xs[at - 1]) / (xs[at] - xs[at - 1])
    return ys[at - 1] + share * (ys[at] - ys[at - 1])


def _check_curve(name: str, xs: Sequence[float], ys: Sequence[float]) -> None:
    if not xs or len(xs) != len(ys) or list(xs) != sorted(set(xs)):
        raise InvalidArgument.of(name, f"{len(xs)} and {len(ys)} values", "as many of both, the first ones rising")
