"""What router and discriminator learn from: pictures that the small variant painted, with the judge's verdicts.

Captions are split by what they mean (see `share_of`), so that no scene in whatever words is in two shares.
"""

from __future__ import annotations

import hashlib
import itertools
import logging
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from transformers import CLIPTokenizer

from underpaint.build.tiny.data import ROUTING_STREAM
from underpaint.build.tiny.facts import CLASSES, PLACES, facts, places
from underpaint.build.tiny.judge import Verdict, judge
from underpaint.build.tiny.scenes import (
    COLOURS,
    POSITIONS,
    RELATIONS,
    SHAPES,
    SIZES,
    TEXTURES,
    Scene,
    caption,
    stream,
)
from underpaint.build.tiny.tokenizer import encode

log = logging.getLogger(__name__)

SEEDS_PER_CAPTION = 2
CHUNK = 256  # captions a file
FIRST_SEED = 5_000_000  # of the pictures, far from those that benches paint with
_KINDS = ("colour", "shape", "size", "texture")
_UNTOLD = -1


class Share(Enum):
    """What a caption may be used for."""

    TRAINING = "training"
    CALIBRATION = "calibration"
    EXAMINATION = "examination"


def share_of(scene: Scene) -> Share:
    """By a hash of what the caption says: 70% training, 15% each of the others."""
    first = hashlib.sha256(bytes(facts(scene))).digest()[0]
    return Share.TRAINING if first < 180 else Share.CALIBRATION if first < 218 else Share.EXAMINATION


def scenes_of(share: Share, seed: int = ROUTING_STREAM, first: int = 0) -> Iterator[Scene]:
    """The scenes of a stream, from index `first` on, that belong to a share; without end."""
    for start in itertools.count(first, 1000):
        yield from (scene for scene in stream(seed, 1000, first=start) if share_of(scene) is share)


def edited(rng: random.Random, scene: Scene) -> Scene:
    """The same scene but for one attribute; only to be told, since nothing is moved."""
    kind = rng.choice((*_KINDS, *_KINDS, "background", "relation"))
    if kind == "background":
        return replace(scene, background=_other(rng, COLOURS, scene.background))
    if kind == "relation":
        pool: Iterable[str] = RELATIONS if len(scene.things) == 2 else POSITIONS
        return replace(scene, relation=_other(rng, pool, scene.relation))
    values: dict[str, Iterable[str]] = {"colour": COLOURS, "shape": SHAPES, "size": SIZES, "texture": TEXTURES}
    things = list(scene.things)
    place = rng.randrange(len(things))
    things[place] = replace(things[place], **{kind: _other(rng, values[kind], getattr(things[place], kind))})
    return replace(scene, things=tuple(things))


def _other(rng: random.Random, values: Iterable[str], present: str) -> str:
    return rng.choice([value for value in values if value != present])


# Judged pictures ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Judged:
    """Pictures with the judge's verdicts.

    `images` uint8 [N, 64, 64, 3]; `ids` int16 [N, 24]; `facts` int8 [N, 21]; `right` float32 [N], 1 for a faultless
    picture; `verdicts` float32 [N, 21], 1 and 0 for each fact that was told, -1 where nothing was.
    """

    images: torch.Tensor
    ids: torch.Tensor
    facts: torch.Tensor
    right: torch.Tensor
    verdicts: torch.Tensor

    def __len__(self) -> int:
        return len(self.images)


class Paint(Protocol):
    """Something that paints: captions and seeds to pictures uint8 [N, 64, 64, 3]."""

    def __call__(self, captions: Sequence[str], seeds: Sequence[int]) -> np.ndarray: ...


def load_judged(folder: Path, share: Share, captions: int, paint: Paint, tokenizer: CLIPTokenizer) -> Judged:
    """`SEEDS_PER_CAPTION` pictures of each of the first scenes of a share.

    What is missing in `folder` is painted and judged, a file for every `CHUNK` captions, so that little is lost when
    it is interrupted.
    """
    folder.mkdir(parents=True, exist_ok=True)
    scenes = list(itertools.islice(scenes_of(share), captions))
    parts = []
    for start in range(0, captions, CHUNK):
        path = folder / f"{share.value}_{start:05d}.npz"
        chunk = scenes[start : start + CHUNK]
        if not path.exists():
            log.info("painting %s captions %d to %d", share.value, start, start + len(chunk))
            _paint_chunk(path, chunk, start, share, paint)
        parts.append(_read_chunk(path, chunk, start, tokenizer))
    return Judged(*(torch.cat([getattr(part, name) for part in parts]) for name in Judged.__dataclass_fields__))


def captions_of(scenes: Sequence[Scene], first: int = 0) -> list[str]:
    """In every phrasing, by turns."""
    return [caption(scene, first + number) for number, scene in enumerate(scenes)]


def _paint_chunk(path: Path, scenes: Sequence[Scene], first: int, share: Share, paint: Paint) -> None:
    base = FIRST_SEED + list(Share).index(share) * 1_000_000 + first * SEEDS_PER_CAPTION
    captions = [text for text in captions_of(scenes, first) for _ in range(SEEDS_PER_CAPTION)]
    images = paint(captions, list(range(base, base + len(captions))))
    verdicts = judge(images, _repeated(scenes))
    rows = np.array([_row(v, s) for v, s in zip(verdicts, _repeated(scenes), strict=True)], np.int8)
    right = np.array([verdict.all_right for verdict in verdicts])
    unfinished = path.with_suffix(".part.npz")
    np.savez(unfinished, images=images, verdicts=rows, right=right)
    unfinished.replace(path)


def _read_chunk(path: Path, scenes: Sequence[Scene], first: int, tokenizer: CLIPTokenizer) -> Judged:
    with np.load(path) as saved:
        images, verdicts, right = saved["images"], saved["verdicts"], saved["right"]
    ids = np.repeat(np.array(encode(tokenizer, captions_of(scenes, first)), np.int16), SEEDS_PER_CAPTION, axis=0)
    told = np.array([facts(scene) for scene in _repeated(scenes)], np.int8)
    tensors = (images, ids, told, right.astype(np.float32), verdicts.astype(np.float32))
    return Judged(*map(torch.from_numpy, tensors))


def _repeated(scenes: Sequence[Scene]) -> list[Scene]:
    return [scene for scene in scenes for _ in range(SEEDS_PER_CAPTION)]


def _row(verdict: Verdict, scene: Scene) -> list[int]:
    """The verdict on each fact, in the order of `facts.facts`."""
    row = [_UNTOLD] * len(CLASSES)
    row[0] = int(verdict.background)
    for place, thing in zip(places(scene), verdict.things, strict=True):
        at = 1 + len(_KINDS) * PLACES.index(place)
        row[at : at + len(_KINDS)] = [int(getattr(thing, kind)) for kind in _KINDS]
    return row
