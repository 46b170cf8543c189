"""Kill -9 in the middle of inserts, and what is left of what was acknowledged.

A process of its own inserts as fast as it can and says each id when the cache has acknowledged it; it is killed at a
random moment, the cache is opened again, and everything that was said must be there, found and whole. Run as a module,
this file is that process.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from underpaint.cache.cache import ImageCache
from underpaint.cache.entries import IMAGE, TEXT, NewEntry
from underpaint.cache.scope import ImageScope, LatentsScope
from underpaint.cache.store import Store
from underpaint.cache.verify import check, mend
from underpaint.errors import Internal, NotFound
from underpaint.requests import DEFAULT_TENANT

_CAPACITY = 10**9  # nothing is evicted, so nothing may be missing
_DIMENSION = 512
_STEPS = (5, 10, 15, 20, 25)
_IMAGE_SCOPE = ImageScope(DEFAULT_TENANT, "none", 256, 256).key()
_LATENTS_SCOPE = LatentsScope(DEFAULT_TENANT, "none", "none", "ddim", 50, 256, 256, "float32", 3.0).key()


@dataclass(frozen=True)
class Kills:
    """``unfinished``: rounds that ended inside an insert, as the files tell that it left behind; ``faults``: what else
    was found to be wrong with the store."""

    rounds: int
    unfinished: int
    acknowledged: int
    lost: int
    faults: int


def kill_rounds(
    folder: Path, rounds: int, tell: Callable[[], None] = lambda: None, random: np.random.Generator | None = None
) -> Kills:
    """Kill a writer to the store at ``folder`` so many times; ``tell`` is called after each.

    Raises Internal, where a writer ends by itself.
    """
    random = random or np.random.default_rng()
    acknowledged: dict[int, int] = {}  # by id, the number that the entry was made from
    unfinished = 0
    for number in range(rounds):
        acknowledged |= _kill_one(folder, first=number * 1_000_000, random=random)
        with Store(folder) as store:
            left = check(store)
            unfinished += any(finding.kind == "stray" for finding in left)
            mend(store, [finding for finding in left if finding.kind == "stray"])
        tell()
    with Store(folder) as store:
        faults = len(check(store))
    with ImageCache(folder, _CAPACITY) as cache:
        lost = sum(not is_whole(cache, entry_id, number) for entry_id, number in acknowledged.items())
    return Kills(rounds, unfinished, len(acknowledged), lost, faults)


def _kill_one(folder: Path, first: int, random: np.random.Generator) -> dict[int, int]:
    """Let a writer insert for a random while, then kill it; what it said until then."""
    command = [sys.executable, "-m", "underpaint.bench.cache.kills", str(folder), str(first)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        said = [writer.stdout.readline() for _ in range(int(random.integers(3, 20)))]
        time.sleep(random.uniform(0.0, 0.02))
        writer.kill()
        said += writer.stdout.readlines()
    if not all(said[:3]):
        raise Internal(f"the writer to {folder} ended by itself; see above")
    pairs = (line.split() for line in said if line.endswith("\n"))  # a line that was cut off is no acknowledgement
    return {int(entry_id): int(number) for entry_id, number in pairs}


def is_whole(cache: ImageCache, entry_id: int, number: int) -> bool:
    """Whether an entry is found by both its vectors, and image and latents are what was inserted."""
    wanted = made_entry(number)
    lookups = [(IMAGE, _IMAGE_SCOPE, wanted.image_embedding), (TEXT, _LATENTS_SCOPE, wanted.text_embedding)]
    try:
        found = all(cache.lookup(*question)[0].entry_id == entry_id for question in lookups)
        same = np.array_equal(cache.fetch_image(entry_id), wanted.image)
        return (
            found
            and same
            and all(np.array_equal(cache.fetch_latents(entry_id, step), wanted.latents[step]) for step in _STEPS)
        )
    except (NotFound, IndexError):
        return False


def made_entry(number: int) -> NewEntry:
    """An entry of which everything follows from ``number``."""
    random = np.random.default_rng(number)
    vectors = random.standard_normal((2, _DIMENSION)).astype(np.float32)
    image_embedding, text_embedding = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return NewEntry(
        prompt=f"entry {number}",
        tenant=DEFAULT_TENANT,
        variant="none",
        seed=number,
        image=random.integers(0, 256, (256, 256, 3), dtype=np.uint8),
        image_embedding=image_embedding,
        text_embedding=text_embedding,
        image_scope=_IMAGE_SCOPE,
        num_inference_steps=50,
        latents_scope=_LATENTS_SCOPE,
        latents={step: random.standard_normal((4, 32, 32)).astype(np.float32) for step in _STEPS},
    )


def _insert_until_killed(folder: Path, first: int) -> None:
    number = first
    with ImageCache(folder, _CAPACITY) as cache:
        while True:
            print(cache.insert(made_entry(number)), number, flush=True)
            number += 1


if __name__ == "__main__":
    _insert_until_killed(Path(sys.argv[1]), int(sys.argv[2]))
