"""Prompts and images as vectors in one space (the two towers of CLIP)."""

from __future__ import annotations

import numpy as np

from underpaint.front_door.hurry import Hurry
from underpaint.front_door.reading import Read
from underpaint.front_door.transport import Transport
from underpaint.latest import Latest

_ANSWERED_S = 60.0  # after which the transport itself gives a call up
_TURNS = 8
_PROMPTS_KNOWN = 1000  # people ask for the same again; 2 MB at 512 dimensions


class Embedders:
    """``embed_text`` and ``embed_image``. Embeddings are float32 [D], of unit length."""

    def __init__(self, transport: Transport, read: Read) -> None:
        self._transport, self._read = transport, read
        self._prompts = Hurry("embed_text", _TURNS)
        self._images = Hurry("embed_image", _TURNS)
        self._known: Latest[str, np.ndarray] = Latest(_PROMPTS_KNOWN)

    async def text(self, prompt: str, within_s: float) -> np.ndarray:
        """The embedding of a prompt; what is too long is cut off as it is for the text encoders.

        Raises:
            TooSlow: not done in time.
            UnderpaintError: a model's own error.
        """
        known = self._known.get(prompt)
        if known is not None:
            return known
        inputs = {"input_ids": self._read(prompt)}
        embeddings = await self._prompts.call(lambda: self._embed("embed_text", inputs), within_s)
        return self._known.put(prompt, embeddings[0])

    async def images(self, images: np.ndarray, within_s: float) -> np.ndarray:
        """The embeddings, [n, D], of images, uint8 [n, H, W, 3]. Raises the same."""
        return await self._images.call(lambda: self._embed("embed_image", {"image": images}), within_s)

    async def _embed(self, model: str, inputs: dict[str, np.ndarray]) -> np.ndarray:
        return (await self._transport.infer(model, inputs, ["embedding"], _ANSWERED_S))["embedding"]
