"""A contact sheet: a column a prompt, a row a variant, captions beneath. Small pictures grow by whole multiples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageDraw, ImageFont

COLUMNS = 4
FRAME = 256  # pixels a picture is shown at
_GAP, _MARGIN, _GUTTER = 16, 40, 104
_PAPER, _INK, _PALE, _HAIRLINE = (250, 249, 246), (40, 40, 40), (128, 126, 120), (216, 214, 208)
_TITLE_SIZE, _CAPTION_SIZE, _LABEL_SIZE = 30, 18, 20
_CAPTION_LINES, _LINE = 4, 24


@dataclass(frozen=True)
class Row:
    """One picture a prompt, uint8 [H, W, 3] each; ``name`` and ``note`` stand at its left.

    A frame without a picture says ``without``.
    """

    name: str
    note: str
    images: Sequence[np.ndarray | None]
    without: str = ""


def contact_sheet(title: str, captions: Sequence[str], rows: Sequence[Row]) -> Image.Image:
    """RGB. More captions than ``COLUMNS`` go on in further bands below."""
    columns = min(COLUMNS, len(captions))
    bands = [range(first, min(first + columns, len(captions))) for first in range(0, len(captions), columns)]
    band_height = len(rows) * (FRAME + _GAP) + _CAPTION_LINES * _LINE + _GAP
    top = _MARGIN + 2 * _TITLE_SIZE
    width = 2 * _MARGIN + _GUTTER + columns * (FRAME + _GAP) - _GAP
    sheet = Image.new("RGB", (width, top + len(bands) * band_height + _MARGIN // 2), _PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((_MARGIN, _MARGIN - 8), title, _INK, _font(_TITLE_SIZE))
    for number, band in enumerate(bands):
        _draw_band(sheet, draw, top + number * band_height, [captions[i] for i in band], _slice(rows, band))
    return sheet


def _slice(rows: Sequence[Row], band: range) -> list[Row]:
    return [replace(row, images=[row.images[i] for i in band]) for row in rows]


def _draw_band(
    sheet: Image.Image, draw: ImageDraw.ImageDraw, top: int, captions: Sequence[str], rows: Sequence[Row]
) -> None:
    lefts = [_MARGIN + _GUTTER + i * (FRAME + _GAP) for i in range(len(captions))]
    for row in rows:
        draw.text((_MARGIN, top + FRAME // 2 - 24), row.name, _INK, _font(_LABEL_SIZE))
        draw.text((_MARGIN, top + FRAME // 2 + 4), row.note, _PALE, _font(_CAPTION_SIZE - 2))
        for left, image in zip(lefts, row.images, strict=True):
            # A hairline, or a white background would run into the paper.
            draw.rectangle((left - 1, top - 1, left + FRAME, top + FRAME), outline=_HAIRLINE)
            if image is None:
                centre = (left + FRAME // 2, top + FRAME // 2)
                draw.text(centre, row.without, _PALE, _font(_CAPTION_SIZE), anchor="mm")
            else:
                _paste_centred(sheet, magnify(image), left, top)
        top += FRAME + _GAP
    for left, caption in zip(lefts, captions, strict=True):
        text = "\n".join(wrap(caption, _font(_CAPTION_SIZE), FRAME, _CAPTION_LINES))
        draw.multiline_text((left, top - 4), text, _INK, _font(_CAPTION_SIZE), spacing=_LINE - _CAPTION_SIZE)


def _paste_centred(sheet: Image.Image, picture: Image.Image, left: int, top: int) -> None:
    sheet.paste(picture, (left + (FRAME - picture.width) // 2, top + (FRAME - picture.height) // 2))


def magnify(image: np.ndarray) -> Image.Image:
    """The picture at a size that fits a frame: whole multiples of small ones, so that every pixel stays square."""
    picture = Image.fromarray(image)
    longer = max(picture.size)
    if longer > FRAME:
        picture.thumbnail((FRAME, FRAME), Image.Resampling.LANCZOS)
        return picture
    times = FRAME // longer
    return picture.resize((picture.width * times, picture.height * times), Image.Resampling.NEAREST)


def wrap(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int, lines: int) -> list[str]:
    """Break between words, so that every line is at most ``width`` pixels; what is beyond ``lines`` ends in "…"."""
    wrapped = [""]
    for word in text.split():
        longer = f"{wrapped[-1]} {word}".strip()
        if font.getlength(longer) <= width or not wrapped[-1]:
            wrapped[-1] = longer
        else:
            wrapped.append(word)
    if len(wrapped) <= lines:
        return wrapped
    return [*wrapped[: lines - 1], wrapped[lines - 1] + " …"]


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
