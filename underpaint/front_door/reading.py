"""How models that the front door asks itself read a prompt.

It makes their ids on its own: a call between models costs ten times as much as what a tokenizer does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Read = Callable[[str], np.ndarray]


@dataclass(frozen=True)
class Readers:
    """A prompt as ids, int32 [1, T], for the text embedder, and for router and discriminator; what is too long is cut.

    They raise an UnderpaintError where there is no such tokenizer.
    """

    embedder: Read
    scorers: Read
