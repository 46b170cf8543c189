"""Finds where rows, vectors and files of a store disagree, and mends it.

The index cannot disagree for longer than a server runs: it is built from the store at every start.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from underpaint.cache.errors import CorruptFile
from underpaint.cache.files import IMAGE_STEP
from underpaint.cache.reader import StoreReader
from underpaint.cache.store import Departure, Store

# A server writes files before their rows; younger ones may be such.
_SETTLED_S = 60.0

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Finding:
    """Something wrong. ``remedy`` is what mending it does; ``departure`` the part of that which concerns an entry."""

    kind: str
    what: str
    remedy: str
    departure: Departure | None = None
    stray: Path | None = None


def check(store: StoreReader, progress: Progress = lambda done, of: None) -> list[Finding]:
    """Everything that is wrong with a store, which is read whole. ``progress(done, of)`` counts files.

    Raises StoreUnavailable, where it cannot be read.
    """
    return [*_database(store), *_vectors(store), *_files(store, progress), *_strays(store)]


def mend(store: Store, findings: list[Finding]) -> None:
    """Remove what cannot be used: a damaged entry is worth less than none.

    Raises StoreUnavailable.
    """
    store.drop_strays()
    store.remove([each.departure for each in findings if each.departure is not None])
    for each in findings:
        if each.stray is not None:
            each.stray.unlink(missing_ok=True)


def _database(store: StoreReader) -> Iterator[Finding]:
    for what in store.check_database():
        yield Finding("database", what, "rows that belong to no entry are removed; else move the store away")


def _vectors(store: StoreReader) -> Iterator[Finding]:
    """Entries without vectors, or with such as no lookup could compare."""
    lengths = _usual_lengths(store)
    seen = set()
    for batch in store.vectors():
        for each in batch:
            seen.add(each.entry_id)
            wanted = lengths[each.image_scope]
            if not all(_is_unit(vector, wanted) for vector in (each.image, each.text)):
                what = f"entry {each.entry_id}: its vectors are not of length 1 in {wanted} dimensions"
                yield Finding("vector", what, "the entry is dropped", Departure(each.entry_id))
    for entry_id in store.entry_ids():
        if entry_id not in seen:
            what = f"entry {entry_id} has no vectors, so nothing finds it"
            yield Finding("vector", what, "the entry is dropped", Departure(entry_id))


def _usual_lengths(store: StoreReader) -> dict[str, int]:
    """How many numbers most vectors of a scope have."""
    counts: defaultdict[str, Counter[int]] = defaultdict(Counter)
    for batch in store.vectors():
        for each in batch:
            counts[each.image_scope].update([len(each.image), len(each.text)])
    return {scope: lengths.most_common(1)[0][0] for scope, lengths in counts.items()}


def _is_unit(vector: np.ndarray, length: int) -> bool:
    return len(vector) == length and abs(float(np.linalg.norm(vector)) - 1.0) < 0.01


def _files(store: StoreReader, progress: Progress) -> Iterator[Finding]:
    """Files that are missing, cut short or altered, and entries that never had an image."""
    fingerprints = store.fingerprints()
    for done, ((entry_id, step), expected) in enumerate(fingerprints.items(), start=1):
        progress(done, len(fingerprints))
        try:
            store.files.read(entry_id, step, expected)
        except (CorruptFile, ValueError) as error:
            whole = step == IMAGE_STEP
            remedy = "the entry is dropped" if whole else f"its latents of step {step} are dropped"
            departure = Departure(entry_id, None if whole else (step,))
            yield Finding("file", f"entry {entry_id}: {error}", remedy, departure)
    for entry_id in store.entry_ids():
        if (entry_id, IMAGE_STEP) not in fingerprints:
            yield Finding("file", f"entry {entry_id} has no image", "the entry is dropped", Departure(entry_id))


def _strays(store: StoreReader) -> Iterator[Finding]:
    """Files that no row mentions: left by a writer that was killed."""
    fingerprints = store.fingerprints()
    for entry_id, step, path in store.files.present():
        if (entry_id, step) not in fingerprints and _age_s(path) > (0.0 if isinstance(store, Store) else _SETTLED_S):
            yield Finding("stray", f"{path} belongs to no entry", "the file is removed", stray=path)


def _age_s(path: Path) -> float:
    try:
        return time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return 0.0
