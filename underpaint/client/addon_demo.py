"""The demo's third sheet: the same prompt plain, with a ControlNet, with a LoRA, and with both."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from underpaint.client.async_client import AsyncClient
from underpaint.client.contact_sheet import Row, contact_sheet
from underpaint.client.messages import Wishes
from underpaint.client.pictures import Picture
from underpaint.errors import UnderpaintError

SHEET = "addons.png"
PROMPT = "a small red circle above a large blue square, on a yellow background"
_CONTROLNET, _LORA = "layout", "palette"
_DISCS = ((16.0, 17.0, 8.5), (46.0, 46.0, 13.5))  # where things are to be: x, y and radius, of 64 pixels
_SEED = 3


@dataclass(frozen=True, eq=False)
class AddonWave:
    """``pictures`` in the order of ``captions``."""

    captions: tuple[str, ...]
    pictures: tuple[Picture, ...]


async def paint_addons(client: AsyncClient, variant: str) -> AddonWave | str:
    """The pictures; or why there are none, in a sentence: a server need not have these add-ons."""
    plain: Wishes = {"seed": _SEED, "variant": variant, "cache": "reproducible"}  # LoRAs join at once
    told: Wishes = {**plain, "controlnet": _CONTROLNET, "control_image": control_image()[None]}
    styled: Wishes = {**plain, "lora": _LORA}
    both: Wishes = {**told, "lora": _LORA}
    kinds = {"plain": plain, f"ControlNet {_CONTROLNET}": told, f"LoRA {_LORA}": styled, "both": both}
    requests = (client.generate(PROMPT, **wishes) for wishes in kinds.values())
    try:
        pictures = await asyncio.gather(*requests)
    except UnderpaintError as error:
        return f"no add-ons: {error}"
    return AddonWave(tuple(kinds), tuple(pictures))


def control_image(side: int = 64) -> np.ndarray:
    """Where two things are to be, uint8 [side, side, 3]."""
    canvas = Image.new("RGB", (side, side))
    draw = ImageDraw.Draw(canvas)
    for x, y, radius in _DISCS:
        box = [side / 64 * edge for edge in (x - radius, y - radius, x + radius, y + radius)]
        draw.ellipse(box, fill="white")
    return np.asarray(canvas)


def addon_sheet(wave: AddonWave) -> Image.Image:
    told = [control_image() if picture.outcome.controlnets else None for picture in wave.pictures]
    painted = [picture.image for picture in wave.pictures]
    rows = [Row("told", "", told, without="where it likes"), Row("painted", "", painted)]
    return contact_sheet(f"add-ons: {PROMPT}", wave.captions, rows)


def save(wave: AddonWave | str, folder: Path) -> str:
    """Write the sheet, if there is one; a line for the terminal."""
    if isinstance(wave, str):
        return wave
    addon_sheet(wave).save(folder / SHEET)
    denoised = [f"{picture.outcome.timings_ms.denoise:.0f}" for picture in wave.pictures]
    times = ", ".join(f"{caption} {took}" for caption, took in zip(wave.captions, denoised, strict=True))
    return f"add-ons in one batch, milliseconds of denoising: {times}; {folder / SHEET}"
