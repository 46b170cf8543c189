"""Add-ons by what their files hold: an image made with one file is no start for what is made with another of its name.

What lies behind a URL is known by its name alone: its file would have to be fetched to be read, and a denoiser that
holds it does not look again either. Give it another name when it changes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

from underpaint.addons.sources import SUFFIX, folders

_DIGITS = 16
_BLOCK = 1 << 20


class AddonHashes:
    """The add-ons that a server finds; each file is read once, and again when it has changed."""

    def __init__(self, repository: Path, lora_sources: Sequence[str]) -> None:
        self._repository = repository
        self._folders = folders(lora_sources)
        self._known: dict[tuple[Path, ...], tuple[tuple[int, ...], str]] = {}

    def lora(self, name: str) -> str:
        """16 hex digits; empty for one that is in no folder."""
        found = next((folder for folder in self._folders if (folder / f"{name}{SUFFIX}").is_file()), None)
        if found is None:
            return ""
        config = found / f"{name}.json"
        return self._of((found / f"{name}{SUFFIX}", *([config] if config.is_file() else [])))

    def controlnet(self, name: str, version: int = 1) -> str:
        """16 hex digits; empty for one that is not there."""
        return self._of(sorted((self._repository / f"controlnet_{name}" / str(version)).glob(f"*{SUFFIX}")))

    def _of(self, files: Iterable[Path]) -> str:
        paths = tuple(files)
        if not paths:
            return ""
        try:
            status = [path.stat() for path in paths]
            stamp = tuple(number for each in status for number in (each.st_mtime_ns, each.st_size, each.st_ino))
            known = self._known.get(paths)
            if known is None or known[0] != stamp:
                self._known[paths] = known = (stamp, _hash(paths))
        except OSError:  # gone in between; the denoiser will have something to say of it
            return ""
        return known[1]


def _hash(paths: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                digest.update(block)
    return digest.hexdigest()[:_DIGITS]
