"""Prompts and images as vectors in one space (the two towers of CLIP)."""

from __future__ import annotations

import numpy as np

from underpaint.front_door.hurry import Hurry
from underpaint.front_door.transport import Transport

_ANSWERED_S = 60.0  # after which the transport itself gives a call up
_TURNS = 8


class Embedders:
    """``embed_text`` and ``embed_image``. Embeddings are float32 [D], of unit length."""

    def __init__(self, transport: Transport, family: str) -> None:
        self._transport, self._tokenizer = transport, f"{family}_tokenizer"
        self._hurry = Hurry("embed_text", _TURNS)
        self._hurry_image = Hurry("embed_image", _TURNS)

    async def text(self, prompt: str, within_s: float) -> np.ndarray:
        """The embedding of a prompt; what is too long is cut off as it is for the text encoders.

        Raises:
            TooSlow: not done in time.
            UnderpaintError: a model's own error.
        """
        return await self._hurry.call(lambda: self._text(prompt), within_s)

    async def image(self, image: np.ndarray, within_s: float) -> np.ndarray:
        """The embedding of an image, uint8 [H, W, 3]. Raises the same."""
        return await self._hurry_image.call(lambda: self._embed("embed_image", {"image": image[None]}), within_s)

    async def _text(self, prompt: str) -> np.ndarray:
        inputs = {name: np.array([[text.encode()]], np.object_) for name, text in _prompts(prompt).items()}
        tokens = await self._transport.infer(self._tokenizer, inputs, ["input_ids"], _ANSWERED_S)
        return await self._embed("embed_text", {"input_ids": tokens["input_ids"]})

    async def _embed(self, model: str, inputs: dict[str, np.ndarray]) -> np.ndarray:
        outputs = await self._transport.infer(model, inputs, ["embedding"], _ANSWERED_S)
        return outputs["embedding"][0]


def _prompts(prompt: str) -> dict[str, str]:
    return {"prompt": prompt, "negative_prompt": ""}
