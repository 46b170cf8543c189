"""Where LoRA files come from: folders, and whatever fsspec can open (http, s3, gs …, and the hub as ``hf://``).

Which sources there are is the operator's choice; a request only names a LoRA, ``<source>/<name>.safetensors``, and a
name can lead nowhere else.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any, BinaryIO

from underpaint.errors import InvalidArgument, NotFound, Unavailable, UnderpaintError, Unsupported
from underpaint.wishes import check_lora_name

SUFFIX = ".safetensors"
_NOT_THERE = (HTTPStatus.NOT_FOUND, HTTPStatus.FORBIDDEN)  # who may not list a bucket is refused what is not in it
_PEFTS = "adapter_model"  # what PEFT calls a file, whose config lies beside it under another name
_USUAL = ("pytorch_lora_weights", _PEFTS)  # what diffusers and PEFT call the one LoRA of a repository
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Limits:
    """How large a file may be, and how long it may take to come."""

    max_bytes: int = 1 << 30
    timeout_s: float = 60.0


@dataclass(frozen=True)
class File:
    """A LoRA file as it was read, and PEFT's ``adapter_config.json`` where one lies beside it."""

    content: bytes
    adapter_config: Mapping[str, Any] | None = None


def fetch(name: str, sources: Sequence[str], limits: Limits) -> File:
    """The file of a LoRA, from the first source that has it.

    Raises:
        NotFound: none has it.
        InvalidArgument: the name is none, or the file is too large or lies outside its folder.
        Unavailable: a source could not be reached, or took too long.
        Unsupported: a source needs fsspec, or one of its plug-ins, which is not installed.
    """
    check_lora_name(name)
    unreachable: list[UnderpaintError] = []
    for source in sources:
        try:
            found = _from_url(name, source, limits) if "://" in source else _from_folder(name, Path(source), limits)
        except (Unavailable, Unsupported) as error:
            unreachable.append(error)
            continue
        if found is not None:
            return found
    if unreachable:
        raise unreachable[0]
    raise missing(name, sources)


def names(sources: Sequence[str]) -> list[str]:
    """The LoRAs in the folders among the sources; what lies behind URLs is not listed."""
    return sorted({path.stem for folder in folders(sources) for path in folder.glob(f"*{SUFFIX}")})


def folders(sources: Sequence[str]) -> list[Path]:
    """Those of the sources that are folders, in order."""
    return [Path(source) for source in sources if "://" not in source]


def missing(name: str, sources: Sequence[str]) -> NotFound:
    """That none of the sources has it, and what there is, as far as that can be listed."""
    known, all_listed = ", ".join(names(sources)), len(folders(sources)) == len(sources)
    told = f"; there are: {known or 'none'}" if known or all_listed else ""
    return NotFound(f"lora: there is no {name} in {', '.join(sources)}{told}")


def stamp(name: str, sources: Sequence[str]) -> str:
    """Changes when the file, or PEFT's config beside it, does, as far as that can be told without reading them; empty
    for what comes from afar."""
    for folder in folders(sources):
        path, config = folder / f"{name}{SUFFIX}", folder / f"{name}.json"
        if path.is_file():
            states = [each.stat() for each in (path, config) if each.is_file()]
            return " ".join(f"{state.st_mtime_ns:x}-{state.st_size:x}" for state in states)
    return ""


def _from_folder(name: str, folder: Path, limits: Limits) -> File | None:
    path = folder / f"{name}{SUFFIX}"
    if not path.is_file():
        return None
    if folder.resolve() not in path.resolve().parents:
        raise InvalidArgument.of(f"LoRA {name}", "a link that leads out of the store", f"files in {folder}")
    with path.open("rb") as file:
        content = _read(name, file, limits)
    config = folder / f"{name}.json"
    return File(content, read_adapter_config(config) if config.is_file() else None)


def read_adapter_config(path: Path) -> Mapping[str, Any]:
    """PEFT's ``adapter_config.json``. Raises InvalidArgument for what is none."""
    return _parsed(str(path), path.read_bytes())


def _parsed(where: str, content: bytes) -> Mapping[str, Any]:
    try:
        config = json.loads(content)
    except ValueError as error:
        raise InvalidArgument.of(where, f"no JSON ({error})", "PEFT's adapter_config.json") from None
    if not isinstance(config, dict):
        raise InvalidArgument.of(where, type(config).__name__, "a JSON object, as PEFT's adapter_config.json")
    return config


def _from_url(name: str, source: str, limits: Limits) -> File | None:
    place = f"{source.rstrip('/')}/{name}"
    try:
        content = _download(name, f"{place}{SUFFIX}", limits)
    except NotFound:
        return None
    return File(content, _config_at(name, f"{place}.json", limits))


def download(name: str, url: str, limits: Limits) -> File:
    """The LoRA at a URL of any protocol that fsspec knows, or in a repository of the hub, ``hf://ORG/REPO``.

    Raises as ``fetch`` does, and InvalidArgument where a repository does not tell which file is meant.
    """
    if url.startswith("hf://") and not url.endswith(SUFFIX):
        url = _only_one_in(url)
    folder, _, file = url.rpartition("/")
    content = _download(name, url, limits)
    return File(content, _config_at(name, f"{folder}/adapter_config.json", limits) if file.startswith(_PEFTS) else None)


def _only_one_in(repository: str) -> str:
    """The URL of the LoRA in a repository of the hub: the only one, or the one that is called as usual."""
    with _opening(repository) as fsspec:
        found = [Path(path).stem for path in fsspec.filesystem("hf").glob(f"{repository}/*{SUFFIX}")]
    name = found[0] if len(found) == 1 else next((usual for usual in _USUAL if usual in found), None)
    if name is None:
        files = ", ".join(f"{repository}/{each}{SUFFIX}" for each in sorted(found))
        raise InvalidArgument.of("file", repository, f"a repository with a LoRA, or one of {files or 'its files'}")
    return f"{repository}/{name}{SUFFIX}"


def _config_at(name: str, url: str, limits: Limits) -> Mapping[str, Any] | None:
    try:
        return _parsed(url, _download(name, url, limits))
    except NotFound:
        return None


def _download(name: str, url: str, limits: Limits) -> bytes:
    with _opening(url) as fsspec:
        options = {"client_kwargs": {"timeout": _http_timeout(limits)}} if url.startswith("http") else {}
        with fsspec.open(url, "rb", block_size=0 if options else None, **options) as file:
            return _read(name, file, limits)


@contextmanager
def _opening(url: str) -> Iterator[Any]:
    """fsspec, and what it and its plug-ins say, as errors of ours."""
    try:
        import fsspec
    except ModuleNotFoundError:
        raise Unsupported(f"lora: {url} needs fsspec: pip install 'underpaint[remote]'") from None
    try:
        yield fsspec
    except UnderpaintError:
        raise
    except (ImportError, ValueError) as error:  # no such protocol, or its plug-in is missing
        raise Unsupported(f"lora: {url} cannot be opened: {error}") from None
    except Exception as error:  # every plug-in has errors of its own
        cause = error
        if url.startswith("http") and isinstance(error.__cause__, Exception):
            cause = error.__cause__  # fsspec says of whatever goes wrong that there is no such file
        if isinstance(cause, FileNotFoundError | PermissionError) or getattr(cause, "status", None) in _NOT_THERE:
            raise NotFound(f"lora: there is nothing at {url} that can be read") from None
        raise Unavailable(f"lora: {url} could not be read: {type(cause).__name__}: {cause}") from None


def _http_timeout(limits: Limits) -> Any:
    import aiohttp

    return aiohttp.ClientTimeout(total=limits.timeout_s)


def _read(name: str, file: BinaryIO, limits: Limits) -> bytes:
    """All of a file, if it is not too large and does not come too slowly."""
    end, content = time.monotonic() + limits.timeout_s, bytearray()
    while chunk := file.read(_CHUNK):
        content += chunk
        if len(content) > limits.max_bytes:
            raise InvalidArgument.of(f"LoRA {name}", "a file that is too large", f"at most {limits.max_bytes} bytes")
        if time.monotonic() > end:
            raise Unavailable(f"lora: {name} did not come within {limits.timeout_s:g} s")
    return bytes(content)
