"""What a caller is told beside the image: everything that was decided and how long it took."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
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

    @classmethod
    def from_json(cls, text: str | bytes) -> Outcome:
        """What :meth:`to_json` wrote. Names that a newer server added are left out."""
        raw = json.loads(text)
        timings = Timings(**_known(Timings, raw["timings_ms"]))
        return cls(**{**_known(cls, raw), "timings_ms": timings, "warnings": tuple(raw["warnings"])})

    def metadata(self) -> dict[str, Any]:
        """What a PNG should say of itself: enough to paint it again, without the measurements."""
        report = asdict(self)
        return {name: report[name] for name in report if name not in ("timings_ms", "warnings")}


@dataclass(frozen=True, eq=False)
class Reply:
    """An image, uint8 [H, W, 3], and its report."""

    image: np.ndarray
    outcome: Outcome


def _known(cls: type[Outcome | Timings], raw: Mapping[str, Any]) -> dict[str, Any]:
    return {f.name: raw[f.name] for f in fields(cls) if f.name in raw}
