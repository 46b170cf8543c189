"""PNG files that say how they were made."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from underpaint.errors import InvalidArgument

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


def read_images(field: str, paths: Sequence[Path]) -> np.ndarray:
    """Pictures of one size, uint8 [N, H, W, 3], from files that Pillow can read.

    Raises:
        InvalidArgument: names ``field`` where a file is no picture, or they differ in size.
    """
    pictures = [_read(field, path) for path in paths]
    if len({picture.shape for picture in pictures}) > 1:
        sizes = ", ".join(f"{picture.shape[1]}x{picture.shape[0]}" for picture in pictures)
        raise InvalidArgument.of(field, sizes, "pictures of one size")
    return np.stack(pictures)


def _read(field: str, path: Path) -> np.ndarray:
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))
    except OSError as error:
        allowed = f"a file that holds a picture ({error.strerror or 'Pillow cannot read it'})"
        raise InvalidArgument.of(field, str(path), allowed) from None
