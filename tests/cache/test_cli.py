"""The commands on a store: what they print, what they change, and what they refuse."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.cache.making import entry
from underpaint import cli
from underpaint.cache.cache import ImageCache
from underpaint.cache.location import default_store
from underpaint.cache.store import Store
from underpaint.images import read_metadata

METADATA = {
    "scheduler": "ddim",
    "seed": 9,
    "negative_prompt": "",
    "negative_prompt_of_some_length": "none",
    "loras": [{"name": "palette"}],
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "store"
    monkeypatch.setenv("UNDERPAINT_STORE", str(folder))
    with ImageCache(folder) as cache:
        for number in range(3):
            cache.insert(entry(number, "acme" if number else "default", prompt=f"picture {number}\nof a circle"))
        cache.fetch_image(2)
        cache.insert(entry(9, "acme", steps=(), source=2, generation=1, metadata=METADATA))
    return folder


def run(*words: str) -> int:
    return cli.main(["cache", *words])


def test_stats(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("stats") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{folder}: 4 entries"
    assert lines[1].split() == ["tenant", "entries", "pinned", "latents", "uses", "size", "oldest", "newest"]
    assert re.fullmatch(r"acme +3 +0 +6 +1 +2\.\d kB +\d+ s ago +\d+ s ago", lines[2])
    assert lines[3].startswith("default")
    assert run("stats", "--json") == 0
    tenants = json.loads(capsys.readouterr().out)["tenants"]
    assert [(each["tenant"], each["entries"], each["latents"], each["uses"]) for each in tenants] == [
        ("acme", 3, 6, 1),
        ("default", 1, 3, 0),
    ]


def test_list(folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    assert run("pin", "2") == 0
    assert run("list", "--limit", "3") == 0
    _, heading, *rows = capsys.readouterr().out.splitlines()
    assert heading.split() == ["id", "when", "uses", "size", "tenant", "variant", "latents", "generation", "prompt"]
    assert [row.split()[0] for row in rows] == ["4", "3", "2"], "the newest first"
    assert rows[2].endswith("[pinned] picture 1 of a circle")
    assert "5,10,15" in rows[1]
    assert run("list", "--tenant", "default", "--json") == 0
    (listed,) = json.loads(capsys.readouterr().out)
    assert (listed["entry_id"], listed["prompt"], listed["steps"]) == (1, "picture 0\nof a circle", [5, 10, 15])
    assert run("list", "--tenant", "nobody") == 0
    assert capsys.readouterr().out == "nothing yet\n"


def test_long_prompts_end_at_the_edge_of_the_terminal(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with ImageCache(folder) as cache:
        cache.insert(entry(5, prompt="very " * 100 + "long"))
    monkeypatch.setenv("COLUMNS", "100")
    assert run("list") == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) == 100
    assert lines[1].endswith("…")
    monkeypatch.delenv("COLUMNS")
    assert run("list") == 0
    assert capsys.readouterr().out.splitlines()[1].endswith("very long"), "there is no terminal here"


def test_show(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    png = tmp_path / "four.png"
    assert run("show", "4", "--png", str(png)) == 0
    out = capsys.readouterr().out
    for line in (
        "entry +4",
        "generation +1, from entry 2",
        "latents +none of 50 steps",
        "negative_prompt_of_some_length  none",
        "scheduler +ddim",
        r'loras +\[{"name": "palette"}\]',
        f"image +{png}",
    ):
        assert re.search(f"^{line}$", out, re.MULTILINE), line
    assert len(re.findall("^seed|^negative_prompt  ", out, re.MULTILINE)) == 0, "said before, or nothing to say"
    assert np.array_equal(np.asarray(Image.open(png)), entry(9).image)
    assert read_metadata(png.read_bytes())["seed"] == 9
    assert run("show", "4", "--json") == 0
    assert json.loads(capsys.readouterr().out)["metadata"] == METADATA


def test_pins_stay(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("pin", "1") == 0
    assert capsys.readouterr().out == "entry 1 stays\n"
    with ImageCache(folder, capacity=1) as cache:
        assert cache.stats().entries == 1
        assert cache.fetch_image(1) is not None
    assert run("unpin", "1") == 0
    assert capsys.readouterr().out == "entry 1 may be evicted\n"


def test_clear(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("clear", "--tenant", "acme") == 2, "there is no terminal to ask at"
    assert capsys.readouterr().err == "underpaint: clear: got 'no terminal to ask at'; allowed: --yes\n"
    assert run("clear", "--tenant", "acme", "--yes") == 0
    assert capsys.readouterr().out == "3 entries removed\n"
    assert run("clear", "--scope", entry(0).image_scope, "--yes") == 0
    assert capsys.readouterr().out == "1 entry removed\n"
    assert list(folder.glob("files/*/*.npy")) == []
    assert run("clear", "--all") == 0, "nothing to ask about"


def test_what_is_exported_can_be_imported(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    archive, copy = tmp_path / "all.zip", tmp_path / "copy"
    assert run("pin", "3") == 0
    assert run("export", str(archive)) == 0
    assert run("import", str(archive), "--store", str(copy)) == 0
    assert capsys.readouterr().out.splitlines()[1:] == [f"{archive}: 4 entries", f"4 entries from {archive}"]
    with Store(folder) as old, Store(copy) as new:
        for before in old.entries():
            after = new.entry(before.entry_id)
            assert {**vars(after), "uses": before.uses} == vars(before)
            assert np.array_equal(new.image(before.entry_id), old.image(before.entry_id))
            for step in before.steps:
                assert np.array_equal(new.latents(before.entry_id, step), old.latents(before.entry_id, step))
        vectors = [store.vectors_of(3) for store in (old, new)]
        assert np.array_equal(vectors[0].image, vectors[1].image)
        assert np.array_equal(vectors[0].text, vectors[1].text)


def test_an_import_into_a_full_store_gives_new_ids_and_keeps_kinship(folder: Path, tmp_path: Path) -> None:
    archive = tmp_path / "acme.zip"
    assert run("export", str(archive), "--tenant", "acme") == 0
    assert run("import", str(archive)) == 0
    with Store(folder) as store:
        assert store.entry_ids() == [1, 2, 3, 4, 5, 6, 7]
        assert store.entry(7).source == 5, "2 has become 5"
        assert store.entry(5).seed == store.entry(2).seed


def test_damaged_entries_are_not_exported(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "files/0/2.5.npy").unlink()
    assert run("export", str(tmp_path / "all.zip")) == 0
    assert capsys.readouterr().out.endswith("all.zip: 3 entries\n")


@pytest.mark.parametrize("content", [b"no archive", b""], ids=["text", "empty"])
def test_only_exports_can_be_imported(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes
) -> None:
    (tmp_path / "other.zip").write_bytes(content)
    assert run("import", str(tmp_path / "other.zip")) == 2
    assert "allowed: what 'underpaint cache export' wrote" in capsys.readouterr().err


def test_verify(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("verify") == 0
    assert capsys.readouterr().out == f"{folder}: all is well\n"
    (folder / "files/0/2.npy").unlink()
    (folder / "files/0/99.npy").write_bytes(b"")
    assert run("verify", "--check", "--json") == 1
    report = json.loads(capsys.readouterr().out)
    assert (report["mended"], [each["kind"] for each in report["findings"]]) == (False, ["file"])
    assert run("verify") == 0
    out = capsys.readouterr().out
    assert "2.npy is missing: the entry is dropped\n" in out
    assert "99.npy belongs to no entry: the file is removed\n" in out
    assert out.endswith(f"{folder}: 2 faults found and mended\n")
    assert run("verify") == 0
    assert capsys.readouterr().out == f"{folder}: all is well\n"


CHANGES = [("pin", "1"), ("unpin", "1"), ("clear", "--all", "--yes"), ("verify",), ("import", "x.zip")]
READING = [("stats",), ("list",), ("show", "1"), ("export", "out.zip"), ("verify", "--check")]


@pytest.mark.parametrize("words", CHANGES, ids=lambda words: words[0])
def test_changes_are_refused_while_a_server_holds_the_store(
    folder: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    with ImageCache(folder) as cache:
        assert run(*words) == 2
        assert re.search(r"is in use by process \d+: stop that server first", capsys.readouterr().err)
        assert cache.stats().entries == 4


@pytest.mark.parametrize("words", READING, ids=lambda words: words[0])
def test_reading_goes_on_beside_a_server(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    with ImageCache(folder):
        assert run(*words) == 0


@pytest.mark.parametrize("words", [*CHANGES[:4], *READING], ids=lambda words: words[0])
def test_no_command_makes_a_store_where_there_is_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    assert run(*words, "--store", str(tmp_path / "none")) == 2
    assert capsys.readouterr().err.startswith(f"underpaint: there is no cache store at {tmp_path / 'none'}")
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("show", "99"), "entry 99 is not in the cache store"),
        (("pin", "99"), "entry 99 is not in the cache store"),
        (("list", "--tenant", "a/b"), "tenant: got 'a/b'"),
        (("list", "--limit", "-1"), "limit: got -1"),
        (("clear", "--scope", "acme", "--yes"), "scope: got 'acme'"),
        (("show", "1", "--png", "/nowhere/x.png"), "cannot write /nowhere/x.png: No such file or directory"),
        (("export", "/nowhere/x.zip"), "cannot write /nowhere/x.zip"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_mistakes_end_in_one_sentence(
    folder: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], message: str
) -> None:
    assert run(*words) == 2
    assert message in capsys.readouterr().err


def test_where_the_store_lies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("UNDERPAINT_STORE", "")
    assert default_store() == tmp_path / ".cache" / "underpaint"
    monkeypatch.setenv("UNDERPAINT_STORE", "~/paintings")
    assert default_store() == tmp_path / "paintings"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("UNDERPAINT_STORE", "here")
    assert default_store() == tmp_path / "here"
