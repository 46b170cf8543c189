"""Entries as one file, to carry from store to store, whatever the version of either.

A zip archive, stored without compression: ``underpaint-cache.json`` says which form it has, and each entry is a folder
with ``entry.json``, ``image.npy``, ``image_embedding.npy``, ``text_embedding.npy`` and ``latents-<step>.npy``.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from underpaint.cache.entries import NewEntry, StoredEntry
from underpaint.cache.errors import CorruptFile
from underpaint.cache.reader import StoreReader
from underpaint.cache.store import Store
from underpaint.errors import InvalidArgument, NotFound, Unavailable

_HEAD = "underpaint-cache.json"
_FORM = 1
_AT_A_TIME = 100
_FIELDS = (
    "prompt",
    "tenant",
    "variant",
    "seed",
    "image_scope",
    "latents_scope",
    "num_inference_steps",
    "generation",
    "source",
    "metadata",
    "autoencoder",
)

Progress = Callable[[int, int], None]


def export_store(store: StoreReader, path: Path, tenant: str | None, progress: Progress) -> int:
    """Write the entries of a store, or of one tenant, to ``path``, oldest first; how many.

    Damaged ones are left out. Raises Unavailable, where store or file refuse.
    """
    listed = store.entries(tenant)[::-1]
    written = 0
    draft = path.with_name(f"{path.name}.part")
    try:
        with zipfile.ZipFile(draft, "w", zipfile.ZIP_STORED) as archive:
            archive.writestr(_HEAD, json.dumps({"form": _FORM}))
            for done, entry in enumerate(listed, start=1):
                written += _export_entry(store, archive, entry)
                progress(done, len(listed))
        draft.replace(path)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise Unavailable(f"cannot write {path}: {error}") from None
    return written


def import_store(store: Store, path: Path, progress: Progress) -> int:
    """Insert the entries that :func:`export_store` wrote, under new ids; how many.

    Raises InvalidArgument for a file that is none of those, StoreUnavailable.
    """
    with _opened(path) as archive:
        names = [name for name in archive.namelist() if name.endswith("/entry.json")]
        new_ids: dict[int, int] = {}
        for begin in range(0, len(names), _AT_A_TIME):
            _import_some(store, archive, names[begin : begin + _AT_A_TIME], new_ids)
            progress(min(begin + _AT_A_TIME, len(names)), len(names))
    return len(new_ids)


def _import_some(store: Store, archive: zipfile.ZipFile, names: Sequence[str], new_ids: dict[int, int]) -> None:
    """Insert the entries of these folders, all or none, and note their new ids beside the old ones."""
    facts = [json.loads(archive.read(name)) for name in names]
    new_ids.update({own["entry_id"]: entry_id for entry_id, own in enumerate(facts, start=store.next_id)})
    folders = [name.removesuffix("entry.json") for name in names]
    entries = [_entry(archive, folder, own, new_ids) for folder, own in zip(folders, facts, strict=True)]
    ids = store.insert_all(entries, [own["created_s"] for own in facts])
    for own, entry_id in zip(facts, ids, strict=True):
        if own["pinned"]:
            store.pin(entry_id, True)


def _export_entry(store: StoreReader, archive: zipfile.ZipFile, entry: StoredEntry) -> bool:
    """Whether the entry is still there, whole, and was written."""
    vectors = store.vectors_of(entry.entry_id)
    if vectors is None:
        return False
    try:
        arrays = {"image": store.image(entry.entry_id)}
        arrays |= {f"latents-{step}": store.latents(entry.entry_id, step) for step in entry.steps}
    except (CorruptFile, NotFound):
        return False
    arrays |= {"image_embedding": vectors.image, "text_embedding": vectors.text}
    facts = {name: getattr(entry, name) for name in (*_FIELDS, "entry_id", "steps", "created_s", "pinned")}
    for name, array in arrays.items():
        buffer = io.BytesIO()
        np.lib.format.write_array(buffer, array, allow_pickle=False)
        archive.writestr(f"{entry.entry_id}/{name}.npy", buffer.getvalue())
    archive.writestr(f"{entry.entry_id}/entry.json", json.dumps(facts, ensure_ascii=False))
    return True


@contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(path) as archive:
            if json.loads(archive.read(_HEAD))["form"] != _FORM:
                raise KeyError(_HEAD)
            yield archive
    except (zipfile.BadZipFile, KeyError, ValueError, OSError) as error:
        raise InvalidArgument.of("file", str(path), f"what 'underpaint cache export' wrote ({error})") from None


def _entry(archive: zipfile.ZipFile, folder: str, facts: dict[str, Any], new_ids: dict[int, int]) -> NewEntry:
    def array(name: str) -> np.ndarray:
        return np.lib.format.read_array(io.BytesIO(archive.read(f"{folder}{name}.npy")), allow_pickle=False)

    facts = {"autoencoder": "", **facts}  # older exports do not tell
    fields = {name: facts[name] for name in _FIELDS} | {"source": new_ids.get(facts["source"])}
    return NewEntry(
        **fields,
        image=array("image"),
        image_embedding=array("image_embedding"),
        text_embedding=array("text_embedding"),
        latents={step: array(f"latents-{step}") for step in facts["steps"]},
    )
