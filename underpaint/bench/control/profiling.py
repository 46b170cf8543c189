"""What `underpaint profile` measures: variants at several concurrencies, loading, the small models beside them, and
what router and discriminator say of pictures whose faults the judge knows.
"""

from __future__ import annotations

import csv
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import numpy as np

from underpaint.bench.common.machine import now
from underpaint.bench.control.pacing import Effort, Paint, measure_together, measure_variant, sharing
from underpaint.bench.serving.site import Site
from underpaint.build.tiny.judge import judge
from underpaint.build.tiny.scenes import Scene, caption, stream
from underpaint.client.messages import Call
from underpaint.client.transport import Transport
from underpaint.control.machine import cpu_count, machine_name
from underpaint.control.pareto import Paired, configurations, expected_s, front, mix
from underpaint.control.profile import Costs, Profile
from underpaint.control.simulation.population import recorded
from underpaint.deployment import Deployment, Variant
from underpaint.errors import Unsupported

SCENES = 60_000  # the stream of scenes that are painted for a Pareto front; nobody learns from it
COLUMNS = ("router", "confidence", "small_correct", "large_correct")
_CALLS = 20  # of each small model
_PATIENCE_S = 60.0


def spent_by(site: Site | None) -> Callable[[], float] | None:
    """Processor-seconds of a server of our own and of this process, which asks; of another server nobody knows."""
    return None if site is None else lambda: sum(site.processor().values()) + time.process_time()


def measure(
    paint: Paint,
    models: SmallModels,
    variants: Sequence[Variant],
    repository: Path,
    effort: Effort,
    tell: Callable[[], None] = lambda: None,
) -> Profile:
    """A profile without cascades, of this machine. ``tell`` hears of every measurement of a variant."""
    measured = [measure_variant(paint, each, repository, effort, tell) for each in variants]
    if len(measured) > 1 and effort.cpu_s is not None:
        measured = sharing(measured, measure_together(paint, [each.name for each in measured], effort), cpu_count())
    return Profile(
        name=models.deployment.family,
        variants=tuple(sorted(measured, key=lambda each: each.seconds(1))),
        costs=models.costs(),
        shared=True,
        step_batching=True,
        cores=cpu_count(),
        machine=machine_name(),
        source="underpaint profile",
        measured_at=now(),
    )


# Small models ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SmallModels:
    """Router, discriminator, embedder and VAE encoder, asked one by one."""

    transport: Transport
    deployment: Deployment

    def costs(self) -> Costs:
        """Median seconds of a call; 0 for what is not deployed."""
        image = np.zeros((1, *self._size(), 3), np.uint8)
        ids = self._ids(_PROMPT)
        return Costs(
            router_s=self._timed(("router",), lambda: self._ask("router", {"input_ids": ids})),
            discriminator_s=self._timed(
                ("discriminator",), lambda: self._ask("discriminator", {"image": image, "input_ids": ids})
            ),
            embedder_s=self._timed(("embed_text",), lambda: self._ask("embed_text", {"input_ids": ids})),
            vae_encoder_s=self._timed(
                (f"{self.deployment.small}_vae_encoder",),
                lambda: self._ask(f"{self.deployment.small}_vae_encoder", {"image": image}),
            ),
        )

    def difficulty(self, prompt: str) -> float:
        """The chance that the small variant fails at the prompt."""
        return float(self._ask("router", {"input_ids": self._ids(prompt)})["score"].item())

    def confidence(self, prompt: str, image: np.ndarray) -> float:
        """The chance that an image, uint8 [H, W, 3], shows what the prompt says."""
        inputs = {"image": image[None], "input_ids": self._ids(prompt)}
        return float(self._ask("discriminator", inputs)["score"].item())

    def require_scorers(self) -> None:
        for model in ("router", "discriminator"):
            if not self.transport.ready(model):
                raise Unsupported(f"there is no {model} here to profile cascades with; see `underpaint train tiny`")

    def _size(self) -> tuple[int, int]:
        width, height = self.deployment.variant(self.deployment.small).sizes[0]
        return height, width

    def _timed(self, models: Sequence[str], call: Callable[[], object]) -> float:
        if not all(self.transport.ready(model) for model in models):
            return 0.0
        call()
        return round(median(_seconds(call) for _ in range(_CALLS)), 6)

    def _ids(self, prompt: str) -> np.ndarray:
        texts = {"prompt": prompt, "negative_prompt": ""}
        inputs = {name: np.array([[text.encode()]], np.object_) for name, text in texts.items()}
        return self._ask(f"{self.deployment.family}_tokenizer", inputs)["input_ids"]

    def _ask(self, model: str, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return dict(self.transport.infer(Call(model, inputs, {}), _PATIENCE_S))


_PROMPT = "a small red circle above a large striped blue square, on a yellow background"


def _seconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


# Cascades -------------------------------------------------------------------------------------------------------


def pair_up(
    paint: Callable[[str, str, int], np.ndarray],
    models: SmallModels,
    count: int,
    tell: Callable[[], None],
) -> Paired:
    """Have the same prompts, with the same seeds, painted by both variants, scored and judged.

    ``paint``: variant, prompt, seed to an image, uint8 [H, W, 3].
    """
    models.require_scorers()
    scenes = list(stream(SCENES, count))
    router, confidence = np.empty(count), np.empty(count)
    images: dict[str, list[np.ndarray]] = {models.deployment.small: [], models.deployment.large: []}
    for number, scene in enumerate(scenes):
        prompt = caption(scene)
        for variant, painted in images.items():
            painted.append(paint(variant, prompt, number))
        router[number] = models.difficulty(prompt)
        confidence[number] = models.confidence(prompt, images[models.deployment.small][-1])
        tell()
    small, large = (_losses(np.stack(painted), scenes) for painted in images.values())
    return Paired(router, confidence, small, large)


def _losses(images: np.ndarray, scenes: Sequence[Scene]) -> np.ndarray:
    """1 where anything is not as the caption says, else 0."""
    return np.array([0.0 if verdict.all_right else 1.0 for verdict in judge(images, scenes)])


def with_cascades(profile: Profile, paired: Paired, small: str, large: str) -> Profile:
    """The profile, and what splitting requests between the pair is worth."""
    light, heavy = profile.pair(small, large)
    losses = {small: float(paired.small_loss.mean()), large: float(paired.large_loss.mean())}
    rows = configurations(paired, small, large)
    best = front(rows, lambda row: expected_s(row, light, heavy, profile.costs.discriminator_s))
    variants = tuple(
        replace(each, loss=losses[each.name]) if each.name in losses else each for each in profile.variants
    )
    return replace(
        profile,
        variants=variants,
        cascades=tuple(best),
        mixes=(mix(paired, small, large),),
        loss_is="share of images with a fault",
    )


def save_scores(paired: Paired, path: Path) -> None:
    """As the simulator reads them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(COLUMNS)
        columns = (paired.router, paired.confidence, 1 - paired.small_loss, 1 - paired.large_loss)
        rows.writerows([round(float(value), 6) for value in row] for row in zip(*columns, strict=True))


def load_scores(path: Path) -> Paired:
    """What :func:`save_scores` wrote; for its errors see ``recorded``."""
    kept = recorded(path, "small", "large")
    return Paired(kept.router, kept.confidence["small"], 1 - kept.correct["small"], 1 - kept.correct["large"])
