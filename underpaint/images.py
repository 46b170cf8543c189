"""PNG files that say how they were made."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

METADATA_KEY = "underpaint"


def to_png(image: np.ndarray, metadata: Mapping[str, Any]) -> bytes:
    """A PNG of ``image``, uint8 [H, W, 3], with ``metadata`` as JSON in its text chunk ``underpaint``.

    The chunk ``parameters`` holds the same in a line that image viewers show.
    """
    info = PngInfo()
    info.add_itxt(METADATA_KEY, json.dumps(metadata, ensure_ascii=False))
    info.add_itxt("parameters", ", ".join(f"{name}: {value}" for name, value in metadata.items()))
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG", pnginfo=info)
    return buffer.getvalue()


def to_base64(png: bytes) -> bytes:
    """The PNG as text, for JSON."""
    return base64.b64encode(png)


def read_metadata(png: bytes) -> dict[str, Any]:
    """What :func:`to_png` wrote; empty for a PNG from elsewhere."""
    with Image.open(io.BytesIO(png)) as image:
        image.load()
        text: Mapping[str, str] = getattr(image, "text", {})
    return json.loads(text.get(METADATA_KEY, "{}"))
