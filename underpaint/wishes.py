"""Add-ons as a request names them: LoRAs and ControlNets, and how strongly each is to act."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import lru_cache

from underpaint.errors import InvalidArgument

MAX_LORAS = 8  # of one request
MAX_LORA_SCALE = 10.0
MAX_CONTROLNETS = 4
MAX_CONTROLNET_SCALE = 10.0
# What happens when a LoRA cannot be had: the request fails, or the image is painted without it, and the reply says so.
ON_MISSING_LORA = ("fail", "without")


@dataclass(frozen=True)
class LoraWish:
    """A LoRA by name, and how strongly it is wanted; 1 is as strongly as it was trained, 0 not at all."""

    name: str
    scale: float

    def __str__(self) -> str:
        return f"{self.name}:{self.scale:g}"


@dataclass(frozen=True)
class ControlNetWish:
    """A ControlNet by name, and how strongly its residuals are added (diffusers' `controlnet_conditioning_scale`), from
    which share of the steps to which (`control_guidance_start`, `control_guidance_end`)."""

    name: str
    scale: float = 1.0
    start: float = 0.0
    end: float = 1.0

    def __str__(self) -> str:
        span = "" if (self.start, self.end) == (0.0, 1.0) else f":{self.start:g}:{self.end:g}"
        return f"{self.name}:{self.scale:g}{span}"


@lru_cache(maxsize=1024)  # a request is asked for them time and again
def parse_loras(text: str) -> tuple[LoraWish, ...]:
    """The LoRAs in ``NAME:SCALE,NAME,…``.

    Raises:
        InvalidArgument: it is not of that form, a scale is not finite or too large, a name comes twice, or there are
            too many.
    """
    wishes = tuple(_lora(part) for part in _parts(text))
    _check_names("lora", text, [wish.name for wish in wishes], MAX_LORAS)
    return wishes


@lru_cache(maxsize=1024)
def parse_controlnets(text: str) -> tuple[ControlNetWish, ...]:
    """The ControlNets in ``NAME:SCALE:START:END,NAME:SCALE,NAME,…``.

    Raises:
        InvalidArgument: it is not of that form, a number is out of range, a name comes twice, or there are too many.
    """
    wishes = tuple(_controlnet(part) for part in _parts(text))
    _check_names("controlnet", text, [wish.name for wish in wishes], MAX_CONTROLNETS)
    return wishes


def check_lora_name(name: str) -> None:
    """Raises InvalidArgument for what cannot name a LoRA; a name is the name of a file, and never a path."""
    _check_name("lora", name)


def check_controlnet_name(name: str) -> None:
    """Raises InvalidArgument for what cannot name a ControlNet; a name is part of a model's, and never a path."""
    _check_name("controlnet", name)


def _check_name(field: str, name: str) -> None:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", name) or ".." in name:
        raise InvalidArgument.of(field, name, "a name of 1 to 128 of A-Z a-z 0-9 . _ -, the first a letter or digit")


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(",")] if text.strip() else []


def _check_names(field: str, text: str, names: list[str], most: int) -> None:
    if len(names) > most:
        raise InvalidArgument.of(field, f"{len(names)} of them", f"at most {most}")
    if len(set(names)) < len(names):
        raise InvalidArgument.of(field, text, "each name once")


def _lora(text: str) -> LoraWish:
    name, colon, said = text.partition(":")
    check_lora_name(name)
    scale = _number(said) if colon else 1.0
    if not abs(scale) <= MAX_LORA_SCALE:
        allowed = f"{name}:SCALE, with a scale from -{MAX_LORA_SCALE:g} to {MAX_LORA_SCALE:g}"
        raise InvalidArgument.of("lora", text, allowed)
    return LoraWish(name, scale)


def _controlnet(text: str) -> ControlNetWish:
    name, *said = text.split(":")
    check_controlnet_name(name)
    wish = ControlNetWish(name, *map(_number, said[:3]))
    if len(said) not in (0, 1, 3) or not (abs(wish.scale) <= MAX_CONTROLNET_SCALE and 0 <= wish.start < wish.end <= 1):
        limit = f"{MAX_CONTROLNET_SCALE:g}"
        allowed = f"{name}:SCALE or {name}:SCALE:START:END, a scale from -{limit} to {limit}, 0 <= START < END <= 1"
        raise InvalidArgument.of("controlnet", text, allowed)
    return wish


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan  # which is within no limits
