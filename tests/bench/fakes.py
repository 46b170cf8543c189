"""Servers that answer without painting: what a policy would report, and a picture that is right or is not."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np

from underpaint.bench.demand.served import Account, Served
from underpaint.bench.demand.workload import Relation, WorkItem
from underpaint.build.tiny.scenes import Scene, Thing, caption, render
from underpaint.client.pictures import Picture
from underpaint.front_door.outcome import Outcome, Timings

SCENE = Scene(
    "yellow",
    (Thing("red", "circle", "small", "plain"), Thing("blue", "square", "large", "striped")),
    "above",
    ((32.0, 17.0), (32.0, 47.0)),
)


@dataclass(frozen=True)
class FakeSource:
    entry_id: int
    seed: int
    similarity: float


TIMINGS = Timings(
    admission=1.0, encode=2.0, queue=10.0, denoise=30.0, decode=3.0, total=50.0, embed=2.0, lookup=1.5, fetch=0.5
)


def item(index: int, scene: Scene = SCENE) -> WorkItem:
    return WorkItem(index, scene, caption(scene), 1000 + index, Relation.FRESH, None, 0)


def account(variant: str = "tiny-l", start: str = "noise", steps: int = 25, steps_run: int = 25) -> Account:
    return Account(variant, start, steps, steps_run, guidance_scale=3.0, timings_ms=asdict(TIMINGS))


def outcome(work: WorkItem, policy: str = "vanilla", done: Account | None = None) -> Outcome:
    done = done or account()
    return Outcome(
        request_id="r",
        prompt=work.caption,
        negative_prompt="",
        policy=policy,
        variant=done.variant,
        start=done.start,
        seed=work.seed,
        scheduler="ddim",
        num_inference_steps=done.steps,
        steps_run=done.steps_run,
        steps_skipped=done.steps - done.steps_run,
        guidance_scale=done.guidance_scale,
        width=64,
        height=64,
        timings_ms=TIMINGS,
    )


def picture(work: WorkItem, policy: str = "vanilla", done: Account | None = None) -> Picture:
    """A true render."""
    return Picture(np.asarray(render(work.scene)), outcome(work, policy, done))


def served(work: WorkItem, image: np.ndarray | None = None, done: Account | None = None) -> Served:
    return Served(work, np.asarray(render(work.scene)) if image is None else image, done or account(), 1.0, 1.0)


class FakeEmbedder:
    """Means and spreads of colour channels instead of a network; captions and pictures agree perfectly."""

    def images(self, pictures: np.ndarray) -> np.ndarray:
        flat = pictures.reshape(len(pictures), -1, 3) / 255
        features = np.concatenate([flat.mean(axis=1), flat.std(axis=1)], axis=1)
        return (features / np.linalg.norm(features, axis=1, keepdims=True)).astype(np.float32)

    def texts(self, prompts: list[str]) -> np.ndarray:
        return np.tile(np.float32([1, 0, 0, 0, 0, 0]), (len(prompts), 1))
