"""How late LoRAs may join: captions and seeds with a LoRA from the first step, from each later one, and without it.

``lost`` is how far the pictures of a late join are from those of a join at the first step, as a share of how far
those without the LoRA are (mean absolute difference of pixels): 0 where nothing is lost, 1 where all of it is.
``accuracy`` is what the judge finds of the caption, which a LoRA may change. The latest step is chosen up to which
neither suffers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from underpaint.bench.demand.workload import WorkItem
from underpaint.errors import InvalidArgument

SLACK = 0.01  # of accuracy, which is a mean over few pictures
Paint = Callable[[WorkItem, str | None, int], np.ndarray]  # a caption, a LoRA or none, the step that it joins at
Judge = Callable[[np.ndarray, Sequence[WorkItem]], float]  # mean accuracy of pictures


@dataclass(frozen=True)
class Join:
    """What joining at a step, of so many, costs over all LoRAs and captions; the last stands for never."""

    step: int
    steps: int
    lost: float
    accuracy: float

    @property
    def share(self) -> float:
        return self.step / self.steps


def measure(
    paint: Paint,
    judge: Judge,
    items: Sequence[WorkItem],
    loras: Sequence[str],
    steps: int,
    tell: Callable[[str], None] = lambda _: None,
) -> tuple[Join, ...]:
    """Every step from 0 to ``steps``, where nothing is left to join.

    Raises:
        InvalidArgument: there are no LoRAs, or they change nothing.
    """
    if not loras:
        raise InvalidArgument.of("loras", "none", "one or more, with which to measure")
    never = np.stack([paint(item, None, 0) for item in items]).astype(np.float32)
    apart = np.zeros(steps + 1)
    accuracy = np.zeros(steps + 1)
    for lora in loras:
        tell(lora)
        first: np.ndarray | None = None
        for step in range(steps + 1):
            if step < steps:
                pictures = np.stack([paint(item, lora, step) for item in items]).astype(np.float32)
            else:
                pictures = never
            first = pictures if first is None else first
            apart[step] += float(np.abs(pictures - first).mean())
            accuracy[step] += judge(pictures.astype(np.uint8), items) / len(loras)
    if not apart[steps]:
        raise InvalidArgument.of("loras", ", ".join(loras), "some that change the picture")
    return tuple(Join(k, steps, float(apart[k] / apart[steps]), float(accuracy[k])) for k in range(steps + 1))


def latest(joins: Sequence[Join], keep: float) -> Join:
    """The last step up to which ``keep`` of what LoRAs do is kept, and the accuracy of a join at the first."""
    best = joins[0]
    for join in joins:
        if join.lost > 1 - keep or join.accuracy < joins[0].accuracy - SLACK:
            break
        best = join
    return best
