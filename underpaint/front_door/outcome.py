"""What a caller is told beside the image: everything that was decided and how long it took."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Timings:
    """Milliseconds in each stage, in the order in which a request goes through them.

    ``admission``: waiting for the front door and planning; ``encode``: tokenizer and text encoder; ``queue``: waiting
    for the first UNet call; ``denoise``: first to last step; ``decode``: latents to pixels.
    """

    admission: float
    encode: float
    queue: float
    denoise: float
    decode: float
    total: float


@dataclass(frozen=True)
class Outcome:
    """The report that comes with every image. Names as in the request."""

    request_id: str
    prompt: str
    negative_prompt: str
    policy: str
    variant: str
    start: str
    seed: int
    scheduler: str
    num_inference_steps: int
    steps_run: int
    steps_skipped: int
    guidance_scale: float
    width: int
    height: int
    timings_ms: Timings
    warnings: tuple[str, ...] = ()

    def to_json(self) -> str:
        return json.dumps(asdict(self), ensure_ascii=False)

    def metadata(self) -> dict[str, Any]:
        """What a PNG should say of itself: enough to paint it again, without the measurements."""
        report = asdict(self)
        return {name: report[name] for name in report if name not in ("timings_ms", "warnings")}


@dataclass(frozen=True, eq=False)
class Reply:
    """An image, uint8 [H, W, 3], and its report."""

    image: np.ndarray
    outcome: Outcome
