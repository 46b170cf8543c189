"""``underpaint lora``: a file goes in if a variant can use it, is listed with what it is, and goes out."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.addons.making import LAYOUTS, factors, lora_file
from underpaint.addons.layout import FILE_NAME
from underpaint.cli import main


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A model repository with what there is to know of the micro base."""
    repository = tmp_path / "model_repository"
    for network, layout in LAYOUTS.items():
        folder = repository / f"micro_{network}" / "1"
        folder.mkdir(parents=True)
        (folder / FILE_NAME).write_text(layout.to_json())
    return repository


def lora(repository: Path, *arguments: object) -> int:
    return main(["lora", *map(str, arguments), "--repository", str(repository)])


def test_in_listed_and_out(repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "night.safetensors").write_bytes(lora_file(factors()))
    assert lora(repository, "add", tmp_path / "night.safetensors") == 0
    assert (tmp_path / "addons" / "lora" / "night.safetensors").is_file()
    capsys.readouterr()
    assert lora(repository, "list", "--json") == 0
    (described,) = json.loads(capsys.readouterr().out)
    assert (described["name"], described["rank"], described["bases"]) == ("night", 2, ["micro"])
    assert described["parts"] == ["all layers"] and described["problem"] is None
    assert lora(repository, "remove", "night") == 0
    assert lora(repository, "remove", "night") == 2


def test_what_no_variant_can_use_does_not_go_in(
    repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = factors()
    next(iter(broken.values()))[0][0] = np.nan
    for name, content in (("nan", lora_file(broken)), ("half", lora_file(factors())[:-5])):
        (tmp_path / f"{name}.safetensors").write_bytes(content)
        assert lora(repository, "add", tmp_path / f"{name}.safetensors") == 2
        assert name in capsys.readouterr().err
    assert lora(repository, "add", tmp_path / "nowhere.safetensors") == 2
    assert not (tmp_path / "addons").exists()


def test_a_name_is_taken_only_once(repository: Path, tmp_path: Path) -> None:
    file = tmp_path / "night.safetensors"
    file.write_bytes(lora_file(factors()))
    assert [lora(repository, "add", file), lora(repository, "add", file)] == [0, 2]
    assert lora(repository, "add", file, "--replace") == 0
    assert lora(repository, "add", file, "--name", "../night") == 2


def test_pefts_own_folder_brings_its_alpha(repository: Path, tmp_path: Path) -> None:
    folder = tmp_path / "peft"
    folder.mkdir()
    (folder / "adapter_model.safetensors").write_bytes(lora_file(factors(), kind="peft"))
    (folder / "adapter_config.json").write_text(json.dumps({"r": 2, "lora_alpha": 8}))
    assert lora(repository, "add", folder / "adapter_model.safetensors", "--name", "strong") == 0
    kept = json.loads((tmp_path / "addons" / "lora" / "strong.json").read_text())
    assert kept["lora_alpha"] == 8
    plain = tmp_path / "plain.safetensors"
    plain.write_bytes(lora_file(factors()))
    assert lora(repository, "add", plain, "--name", "strong", "--replace") == 0
    assert not (tmp_path / "addons" / "lora" / "strong.json").exists(), "that was another's"


def test_all_folders_that_a_server_looks_in_are_listed(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder, names in (("a", ("night",)), ("b", ("night", "day"))):
        (tmp_path / folder).mkdir()
        for name in names:
            (tmp_path / folder / f"{name}.safetensors").write_bytes(lora_file(factors()))
    (tmp_path / "a" / "night.safetensors").write_bytes(b"broken, and yet the one that is found")
    monkeypatch.setenv("UNDERPAINT_LORAS", f"{tmp_path / 'a'} https://afar {tmp_path / 'b'}")
    assert lora(repository, "list", "--json") == 0
    listed = json.loads(capsys.readouterr().out)
    assert [(each["name"], each["problem"] is None) for each in listed] == [("day", True), ("night", False)]
    assert lora(repository, "list") == 0
    assert "https://afar cannot be listed" in capsys.readouterr().err
    assert lora(repository, "list", "--store", tmp_path / "b") == 0
    assert "safetensors file" not in capsys.readouterr().out


def test_a_broken_file_is_listed_with_its_problem(
    repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = tmp_path / "addons" / "lora"
    store.mkdir(parents=True)
    (store / "bad.safetensors").write_bytes(b"nothing")
    assert lora(repository, "list") == 0
    assert "bad" in (out := capsys.readouterr().out) and "safetensors" in out


def test_the_store_may_be_named(repository: Path, tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(lora_file(factors()))
    assert lora(repository, "add", tmp_path / "x.safetensors", "--store", tmp_path / "other") == 0
    assert (tmp_path / "other" / "x.safetensors").is_file()
