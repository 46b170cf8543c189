"""Router and discriminator, asked live: how hard is this prompt, how good is this very image?

Their scores are probabilities. A score that does not come in time is missing, and the request goes on without it; only
a reproducible one waits, since a score decides what is painted.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import numpy as np

from underpaint.errors import UnderpaintError
from underpaint.front_door.complaints import Complaints
from underpaint.front_door.hurry import Hurry
from underpaint.front_door.pipelines import Painting
from underpaint.front_door.reading import Read
from underpaint.front_door.registry import Visit
from underpaint.front_door.tally import Tally
from underpaint.front_door.transport import Transport
from underpaint.requests import GenerateRequest

_ANSWERED_S = 60.0  # after which the transport itself gives a call up
_TURNS = 16


class Scoring:
    """The models ``router`` and ``discriminator``."""

    def __init__(
        self, transport: Transport, read: Read, tally: Tally, complaints: Complaints, patience_s: float
    ) -> None:
        """``patience_s``: how long an image waits for its score, at least."""
        self._transport, self._read = transport, read
        self._tally, self._complaints, self._patience_s = tally, complaints, patience_s
        self._router, self._discriminator = Hurry("router", _TURNS), Hurry("discriminator", _TURNS)

    async def route(self, request: GenerateRequest, visit: Visit, within_s: float) -> float | None:
        """The chance that the small variant fails at the prompt; None if it does not come ``within_s``.

        Raises:
            UnderpaintError: there is no score for a reproducible request.
        """
        with visit.timed("route"):
            score = await self._score(self._router, lambda: self._routed(request.prompt), request, within_s)
        if score is not None:
            self._tally.score("difficulty", score)
        return score

    async def judge(self, request: GenerateRequest, painting: Painting, visit: Visit) -> float | None:
        """The chance that the painting shows what the prompt says. Raises the same."""
        image, painting_s = painting.image, (painting.painted_ns - painting.called_ns) / 1e9
        within_s = max(self._patience_s, painting_s)  # a machine that paints slowly may judge slowly
        left_s = visit.time_left_s()
        within_s = within_s if left_s is None else max(0.0, min(within_s, left_s))
        with visit.timed("judge"):
            score = await self._score(
                self._discriminator, lambda: self._judged(request.prompt, image), request, within_s
            )
        if score is not None:
            self._tally.score("confidence", score)
        return score

    async def _score(
        self, hurry: Hurry, work: Callable[[], Coroutine[Any, Any, float]], request: GenerateRequest, within_s: float
    ) -> float | None:
        try:
            return await hurry.call(work, _ANSWERED_S if request.reproducible else within_s)
        except Exception as error:  # whatever it is, the request can be served without a score
            if request.reproducible and isinstance(error, UnderpaintError):
                raise
            self._complaints.about("scoring", str(error))
            return None

    async def confidences(self, prompts: Sequence[str], images: np.ndarray) -> list[float]:
        """The same for any images, uint8 [n, H, W, 3], when nobody waits for it.

        Raises:
            UnderpaintError: there are no scores.
        """
        ids = np.concatenate([self._read(prompt) for prompt in prompts])
        return await self._ask("discriminator", {"image": images, "input_ids": ids})

    async def _routed(self, prompt: str) -> float:
        (score,) = await self._ask("router", {"input_ids": self._read(prompt)})
        return score

    async def _judged(self, prompt: str, image: np.ndarray) -> float:
        (score,) = await self.confidences([prompt], image[None])
        return score

    async def _ask(self, model: str, inputs: dict[str, np.ndarray]) -> list[float]:
        outputs = await self._transport.infer(model, inputs, ["score"], _ANSWERED_S)
        return [float(score) for score in outputs["score"].ravel()]
