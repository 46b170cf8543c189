"""How good the variants of the tiny family are, judged on pictures that the server painted, and what each costs.

Captions that training never saw; those with a combination of attributes that training never showed are reported apart.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from underpaint.bench.judging.flops import VariantCost
from underpaint.bench.judging.frechet import Gaussian, frechet_distance
from underpaint.bench.judging.quality import Embedder, read_all
from underpaint.bench.models.instruments import draw
from underpaint.build.tiny.judge import score
from underpaint.build.tiny.scenes import Scene, Split, caption, stream
from underpaint.deployment import Variant

EVALUATION_STREAM = 3
_STEPS = (1, 2, 3, 4, 6, 8, 10, 15, 20, 25, 35, 50)

# (variant, captions, num_inference_steps or None for the default) to pictures uint8 [N, H, W, 3]
Paint = Callable[[str, Sequence[str], int | None], np.ndarray]


@dataclass(frozen=True)
class Size:
    """How many captions."""

    unseen: int = 512
    held_out: int = 256
    curve: int = 128

    @property
    def pictures(self) -> int:
        """Of one variant."""
        return self.unseen + self.held_out


@dataclass(frozen=True, eq=False)
class VariantReport:
    """One variant. Shares of pictures (``all``, ``background``, ``relation``) and of things (the rest) that are right.

    ``curve``: share of pictures without fault by number of steps, on the first of the unseen captions.
    """

    unseen: dict[str, float]
    held_out: dict[str, float]
    fid: float
    gflop_per_image: float
    steps: int
    guidance_scale: float
    curve: dict[int, float]
    pictures: np.ndarray
    ms_per_image: float = 0.0

    def to_json(self) -> dict[str, Any]:
        return {
            "all_correct": round(self.unseen["all"], 4),
            "all_correct_heldout": round(self.held_out["all"], 4),
            "fid": round(self.fid, 4),
            "gflop_per_image": round(self.gflop_per_image, 3),
            "steps": self.steps,
            "guidance_scale": self.guidance_scale,
            "ms_per_image": round(self.ms_per_image, 1),
            "unseen": {name: round(share, 4) for name, share in self.unseen.items()},
            "held_out": {name: round(share, 4) for name, share in self.held_out.items()},
            "curve": {str(steps): round(share, 4) for steps, share in self.curve.items()},
        }


def scenes_of(size: Size) -> tuple[list[Scene], list[Scene]]:
    """Unseen and held-out ones."""
    return (
        list(stream(EVALUATION_STREAM, size.unseen)),
        list(stream(EVALUATION_STREAM, size.held_out, Split.HELD_OUT)),
    )


def captions_of(scenes: Sequence[Scene]) -> list[str]:
    return [caption(scene, way) for way, scene in enumerate(scenes)]


def measure_variant(variant: Variant, cost: VariantCost, clip: Embedder, paint: Paint, size: Size) -> VariantReport:
    unseen, held_out = scenes_of(size)
    pictures = paint(variant.name, captions_of(unseen), None)
    others = paint(variant.name, captions_of(held_out), None)
    shares = score(read_all(pictures, unseen, variant.name))
    few = unseen[: size.curve]
    curve = {variant.num_inference_steps: score(read_all(pictures[: size.curve], few, variant.name))["all"]}
    for steps in curve_steps(variant) if size.curve else ():
        painted = paint(variant.name, captions_of(few), steps)
        curve[steps] = score(read_all(painted, few, f"{variant.name}, {steps} steps"))["all"]
    return VariantReport(
        unseen=shares,
        held_out=score(read_all(others, held_out, variant.name)),
        fid=frechet_distance(Gaussian.of(clip.images(pictures)), Gaussian.of(clip.images(draw(unseen)))),
        gflop_per_image=cost.image(variant.num_inference_steps, variant.guidance_scale, from_image=False),
        steps=variant.num_inference_steps,
        guidance_scale=variant.guidance_scale,
        curve=dict(sorted(curve.items())),
        pictures=pictures,
    )


def curve_steps(variant: Variant) -> list[int]:
    """Step counts around the default, up to twice of it."""
    default = variant.num_inference_steps
    return [steps for steps in _STEPS if default / 4 <= steps <= 2 * default and steps != default]
