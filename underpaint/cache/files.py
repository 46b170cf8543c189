"""Arrays as files of a store, as plain ``.npy``: written whole or not at all, and checked when read.

Not as PNG: of a 1024 x 1024 image, compressing takes 100 ms and decompressing 35 ms on one core, this 2 ms, and a
fetch is on the critical path of a hit. It costs about half as much disk again as its latents take anyway.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from underpaint.cache.errors import CorruptFile

_PER_FOLDER = 1000
_PREFIX_BYTES = 10  # magic, version (1.0) and the length of the header that follows
IMAGE_STEP = 0  # what stands for an image where files go by the step of their latents


@dataclass(frozen=True)
class Fingerprint:
    """What a file must be to be the one that was written."""

    size_bytes: int
    crc32: int

    @classmethod
    def of(cls, content: bytes | memoryview) -> Fingerprint:
        return cls(len(content), zlib.crc32(content))


@dataclass(frozen=True)
class ArrayFiles:
    """The files below ``folder``: ``files/<thousand>/<entry>.npy``, and ``<entry>.<step>.npy`` for latents."""

    folder: Path

    @property
    def root(self) -> Path:
        return self.folder / "files"

    @property
    def drafts(self) -> Path:
        """Where files are until they are whole."""
        return self.folder / "drafts"

    def make(self) -> None:
        """Make the folders, and remove what a writer that was killed left half-written."""
        self.root.mkdir(parents=True, exist_ok=True)
        self.drafts.mkdir(exist_ok=True)
        for draft in self.drafts.iterdir():
            draft.unlink()

    def path(self, entry_id: int, step: int) -> Path:
        name = f"{entry_id}.npy" if step == IMAGE_STEP else f"{entry_id}.{step}.npy"
        return Path(f"{self.folder}/files/{entry_id // _PER_FOLDER}/{name}")  # joining them takes three times as long

    def write(self, entry_id: int, step: int, array: np.ndarray) -> Fingerprint:
        """Write one array; it is there as a whole, or an OSError is raised and it is not there."""
        content = _header(array.shape, array.dtype) + array.tobytes()
        path = self.path(entry_id, step)
        draft = self.drafts / path.name
        try:
            draft.write_bytes(content)
            _move(draft, path)
        except OSError:
            with suppress(OSError):
                draft.unlink()
            raise
        return Fingerprint.of(content)

    def read(self, entry_id: int, step: int, expected: Fingerprint) -> np.ndarray:
        """The array as it was written; it cannot be written to. Raises CorruptFile where it is not what was written,
        OSError where it cannot be read."""
        path = self.path(entry_id, step)
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            raise CorruptFile(f"{path} is missing") from None
        found = Fingerprint.of(content)
        if found.size_bytes != expected.size_bytes:
            raise CorruptFile(f"{path} has {found.size_bytes} bytes, {expected.size_bytes} were written")
        if found != expected:
            raise CorruptFile(f"{path} is not what was written: its checksum differs")
        begin = _PREFIX_BYTES + int.from_bytes(content[_PREFIX_BYTES - 2 : _PREFIX_BYTES], "little")
        shape, dtype = _described(content[:begin])
        return np.frombuffer(content, dtype, offset=begin).reshape(shape)

    def remove(self, entry_id: int, step: int) -> None:
        """Remove a file, if it is there."""
        with suppress(OSError):  # ``verify`` finds what stays behind
            self.path(entry_id, step).unlink()

    def present(self) -> Iterator[tuple[int, int, Path]]:
        """Entry, step and path of every file that is there; -1 for a name that is not ours."""
        for path in sorted(self.root.glob("*/*")):
            entry_id, _, step = path.name.removesuffix(".npy").partition(".")
            ours = entry_id.isdecimal() and (step or "0").isdecimal()
            known = ours and self.path(int(entry_id), int(step or IMAGE_STEP)) == path
            yield (int(entry_id), int(step or IMAGE_STEP), path) if known else (-1, -1, path)


def _move(draft: Path, path: Path) -> None:
    try:
        draft.replace(path)
    except FileNotFoundError:  # it is the first of its folder
        path.parent.mkdir(exist_ok=True)
        draft.replace(path)


# Files have few shapes, and numpy takes longer over their headers than the disk over the rest.


@lru_cache(maxsize=256)
def _header(shape: tuple[int, ...], dtype: np.dtype[Any]) -> bytes:
    """What a ``.npy`` begins with, of an array in C order."""
    buffer = io.BytesIO()
    about = {"shape": shape, "fortran_order": False, "descr": np.lib.format.dtype_to_descr(dtype)}
    np.lib.format.write_array_header_1_0(buffer, about)
    return buffer.getvalue()


@lru_cache(maxsize=256)
def _described(header: bytes) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and type of the array that follows."""
    buffer = io.BytesIO(header)
    np.lib.format.read_magic(buffer)
    shape, _, dtype = np.lib.format.read_array_header_1_0(buffer)
    return shape, dtype
