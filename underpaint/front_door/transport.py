"""The edge to the other models of the server, small enough to be replaced in tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

Tensors = Mapping[str, np.ndarray]
Parameters = Mapping[str, str | int | bool]


class Transport(Protocol):
    """Calls another model by name."""

    async def infer(
        self,
        model: str,
        inputs: Tensors,
        outputs: Sequence[str],
        timeout_s: float,
        parameters: Parameters | None = None,
    ) -> Mapping[str, np.ndarray]:
        """The outputs of ``model``, by name.

        Raises:
            Unavailable: no answer within ``timeout_s``.
            UnderpaintError: the model's own error.
        """
