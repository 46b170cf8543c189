"""When LoRAs join that are still being loaded as their request comes: after a share of its steps.

The layout is drawn in the first steps, which LoRAs hardly change (SwiftDiffusion, arXiv:2407.02031: 10 of 50). How late
is not too late is measured by ``underpaint calibrate lora``, for the weights that are deployed.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path

from underpaint.errors import InvalidArgument

FILE_NAME = "lora_join.json"  # in the version directory of a variant's denoiser
UNCALIBRATED = 0.2
_ROUNDING = 1e-9  # a share of 2/9 of 9 steps is 2


@dataclass(frozen=True)
class JoinRule:
    """``share`` of the steps, 0 to 1; ``weights``: the hash of the variant that it was measured on."""

    share: float = UNCALIBRATED
    weights: str = ""

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise InvalidArgument.of("share of steps without LoRAs", self.share, "0 to 1")

    def step(self, first: int, steps: int, resident: bool, wanted: int | None = None) -> int:
        """Before which step LoRAs join a trajectory that begins with ``first`` and ends after ``steps``; ``wanted``:
        exactly there, whether they are in memory or not."""
        if wanted is not None:
            return max(first, wanted)
        return first if resident else max(first, math.ceil(self.share * steps - _ROUNDING))

    def save(self, folder: Path) -> Path:
        path = folder / FILE_NAME
        path.write_text(json.dumps(asdict(self), indent=1) + "\n")
        return path

    @classmethod
    def load(cls, folder: Path, weights: str) -> JoinRule:
        """What was measured, if on these weights; else the published share.

        Raises:
            InvalidArgument: the file is there and is none.
        """
        path = folder / FILE_NAME
        if not path.is_file():
            return cls()
        try:
            rule = cls(**json.loads(path.read_text()))
        except (ValueError, TypeError) as error:
            raise InvalidArgument.of(str(path), str(error), "what `underpaint calibrate lora` writes") from None
        return rule if rule.weights == weights else cls()
