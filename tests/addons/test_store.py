"""The store: what is found, what is kept, and what goes wrong on the way."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.addons.making import LAYOUTS, factors, lora_file
from underpaint.addons.location import lora_sources
from underpaint.addons.sources import Limits, names
from underpaint.addons.store import LoraStore
from underpaint.errors import InvalidArgument, NotFound

PATIENCE_S = 20.0


def put(folder: Path, name: str, seed: int = 0) -> Path:
    path = folder / f"{name}.safetensors"
    path.write_bytes(lora_file(factors(seed=seed)))
    return path


def store_of(*where: object, **kwargs: object) -> LoraStore:
    return LoraStore([str(each) for each in where], LAYOUTS, **kwargs)  # type: ignore[arg-type]


def test_what_is_in_memory_is_there_at_once(tmp_path: Path) -> None:
    put(tmp_path, "night")
    store = store_of(tmp_path)
    first = store.load("night").result(PATIENCE_S)
    again = store.load("night")
    assert again.done() and again.result() is first
    assert (store.residents().loads, store.residents().hits) == (1, 1)


def test_a_file_that_has_changed_is_read_again(tmp_path: Path) -> None:
    path = put(tmp_path, "night")
    store = store_of(tmp_path)
    first = store.load("night").result(PATIENCE_S)
    put(tmp_path, "night", seed=1)
    os.utime(path, ns=(1, 1))
    second = store.load("night").result(PATIENCE_S)
    assert second.fingerprint != first.fingerprint
    assert store.residents().nbytes == second.nbytes


def test_the_least_recently_used_goes_first(tmp_path: Path) -> None:
    for name in "abc":
        put(tmp_path, name)
    size = store_of(tmp_path).load("a").result(PATIENCE_S).nbytes
    store = store_of(tmp_path, max_bytes=2 * size)
    for name in "abac":
        store.load(name).result(PATIENCE_S)
    assert store.residents().evictions == 1
    assert store.load("a").done() and not store.load("b").done()
    assert store.residents().most_nbytes <= 2 * size


def test_the_first_source_that_has_it_wins(tmp_path: Path) -> None:
    near, far = tmp_path / "near", tmp_path / "far"
    near.mkdir(), far.mkdir()
    put(far, "night"), put(far, "palette"), put(near, "night", seed=1)
    both = store_of(near, far)
    near_one = store_of(near).load("night").result(PATIENCE_S)
    assert both.load("night").result(PATIENCE_S).fingerprint == near_one.fingerprint
    both.load("palette").result(PATIENCE_S)
    assert names([str(near), str(far)]) == ["night", "palette"]


def test_an_unknown_name_is_not_found_and_those_there_are_are_named(tmp_path: Path) -> None:
    put(tmp_path, "night")
    with pytest.raises(NotFound, match=r"no day .*night"):
        store_of(tmp_path).load("day").result(PATIENCE_S)


@pytest.mark.parametrize("name", ["../night", "/etc/passwd", "a/b", "..", "", "a..b", "x" * 129])
def test_a_name_is_never_a_path(tmp_path: Path, name: str) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    put(tmp_path, "night")
    with pytest.raises(InvalidArgument, match="name"):
        store_of(inner).load(name).result(PATIENCE_S)


def test_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    (inner / "night.safetensors").symlink_to(put(tmp_path, "night"))
    with pytest.raises(InvalidArgument, match="out of the store"):
        store_of(inner).load("night").result(PATIENCE_S)


def test_what_has_failed_is_tried_anew(tmp_path: Path) -> None:
    store = store_of(tmp_path)
    with pytest.raises(NotFound):
        store.load("night").result(PATIENCE_S)
    put(tmp_path, "night")
    store.load("night").result(PATIENCE_S)
    assert store.residents().failures == 1


def test_a_bad_file_is_read_once_until_it_changes(tmp_path: Path) -> None:
    store, path = store_of(tmp_path), tmp_path / "night.safetensors"
    path.write_bytes(lora_file(factors())[:-1])
    for _ in range(3):
        with pytest.raises(InvalidArgument, match="cut off"):
            store.load("night").result(PATIENCE_S)
    assert store.residents().loads == store.residents().failures == 1
    put(tmp_path, "night")
    store.load("night").result(PATIENCE_S)


def test_a_config_that_comes_later_is_heeded(tmp_path: Path) -> None:
    put(tmp_path, "night")
    store = store_of(tmp_path)
    plain = store.load("night").result(PATIENCE_S)
    (tmp_path / "night.json").write_text('{"lora_alpha": 64}')
    scaled = store.load("night").result(PATIENCE_S)
    assert plain.unet is not None and scaled.unet is not None
    assert abs(scaled.unet).max() > abs(plain.unet).max()


def test_a_file_that_is_too_large_is_refused(tmp_path: Path) -> None:
    put(tmp_path, "night")
    with pytest.raises(InvalidArgument, match="at most 100 bytes"):
        store_of(tmp_path, limits=Limits(max_bytes=100)).load("night").result(PATIENCE_S)


def test_a_config_that_is_none_is_refused(tmp_path: Path) -> None:
    put(tmp_path, "night")
    for text in ("{", "[]"):
        (tmp_path / "night.json").write_text(text)
        with pytest.raises(InvalidArgument, match="adapter_config"):
            store_of(tmp_path).load("night").result(PATIENCE_S)


def test_the_environment_names_other_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert lora_sources(tmp_path / "model_repository") == (str(tmp_path / "addons" / "lora"),)
    monkeypatch.setenv("UNDERPAINT_LORAS", "/a  http://b/c")
    assert lora_sources(tmp_path) == ("/a", "http://b/c")
