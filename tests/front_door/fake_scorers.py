"""Router and discriminator of a server, as the front door sees them through its transport."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np


@dataclass
class FakeScorers:
    """Give the scores that they are told to.

    Attributes:
        scores: by model.
        failures: what a model raises instead; ``hanging``: models that never answer.
        asked: models, in order; ``judged``: the images that the discriminator was shown.
    """

    scores: dict[str, float] = field(default_factory=lambda: {"router": 0.2, "discriminator": 0.9})
    failures: dict[str, Exception] = field(default_factory=dict)
    hanging: set[str] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)
    judged: list[np.ndarray] = field(default_factory=list)

    async def infer(self, model: str, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        self.asked.append(model)
        assert (inputs["input_ids"].ndim, inputs["input_ids"].dtype) == (2, np.int32)
        if model == "discriminator":
            assert (inputs["image"].ndim, inputs["image"].dtype) == (4, np.uint8)
            self.judged.extend(inputs["image"])
        if model in self.hanging:
            await asyncio.Event().wait()
        if model in self.failures:
            raise self.failures[model]
        return {"score": np.full((len(inputs["input_ids"]), 1), self.scores[model], np.float32)}
