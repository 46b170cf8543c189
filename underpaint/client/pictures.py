"""What a caller gets: pictures, and on the way to them, progress."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from underpaint.front_door.outcome import Outcome
from underpaint.images import to_png


@dataclass(frozen=True, eq=False)
class Picture:
    """An image, uint8 [H, W, 3], and the server's report on how it was made."""

    image: np.ndarray = field(repr=False)
    outcome: Outcome

    def png(self) -> bytes:
        """The picture as a PNG file that carries the parameters to paint it again."""
        return to_png(self.image, self.outcome.metadata())

    def save(self, path: str | Path) -> Path:
        """Write :meth:`png` to ``path``, over whatever file is there, and return the path."""
        path = Path(path)
        path.write_bytes(self.png())
        return path

    def _repr_png_(self) -> bytes:  # notebooks show it
        return self.png()


@dataclass(frozen=True, eq=False)
class Progress:
    """``step`` of ``total`` denoising steps are done. ``preview``: uint8 [H, W, 3], once there is something to see."""

    step: int
    total: int
    preview: np.ndarray | None = field(default=None, repr=False)
