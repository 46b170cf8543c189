"""What the hub answers, said in one sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import errors

from underpaint.build import fetch as fetching
from underpaint.build.build_cli import find_recipe
from underpaint.build.fetch import fetch
from underpaint.cli import main
from underpaint.errors import InvalidArgument, Unavailable, UnderpaintError

SDXL = find_recipe("sdxl").variants[0]
LIGHTNING = find_recipe("sdxl-lightning").variants[0]


def raised(kind: type[Exception]) -> Exception:
    """Without the response that it came with, whose class changes with the client's version."""
    error = kind.__new__(kind)
    Exception.__init__(error, "what the hub says")
    return error


@pytest.mark.parametrize(
    ("error", "kind", "complaint"),
    [
        (raised(errors.GatedRepoError), Unavailable, "is gated: accept its licence at https"),
        (raised(errors.RepositoryNotFoundError), InvalidArgument, "allowed: what the hub has"),
        (raised(errors.LocalEntryNotFoundError), Unavailable, "could not be fetched whole"),
        (ConnectionError("reset"), Unavailable, "run the same command again, which goes on"),
    ],
)
def test_what_the_hub_refuses(
    monkeypatch: pytest.MonkeyPatch, error: Exception, kind: type[UnderpaintError], complaint: str
) -> None:
    def refuse(*_: Any, **__: Any) -> str:
        raise error

    monkeypatch.setattr(fetching, "snapshot_download", refuse)
    with pytest.raises(kind, match=complaint):
        fetch(SDXL)


def test_what_is_fetched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[tuple[str, str, list[str]]] = []

    def snapshot(repo_id: str, revision: str, allow_patterns: list[str], ignore_patterns: list[str]) -> str:
        asked.append((repo_id, revision, allow_patterns))
        return str(tmp_path)

    def file(repo_id: str, name: str, revision: str) -> str:
        return str(tmp_path / name)

    monkeypatch.setattr(fetching, "snapshot_download", snapshot)
    monkeypatch.setattr(fetching, "hf_hub_download", file)
    assert fetch(SDXL).network_file is None
    assert fetch(LIGHTNING).network_file == tmp_path / LIGHTNING.network_file
    assert fetch(LIGHTNING, with_weights=False).network_file is None
    assert all((repo_id, revision) == (SDXL.repo_id, SDXL.revision) for repo_id, revision, _ in asked)
    assert ["*/*.safetensors" in patterns for _, _, patterns in asked] == [True, True, False]


def test_every_recipe_pins_what_it_fetches() -> None:
    for family in ("sd15", "sdxl", "sdxl-turbo", "sdxl-lightning", "sd-turbo"):
        for variant in find_recipe(family).variants:
            assert len(variant.revision) == 40, variant.name


def test_families_are_listed_and_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["families", "list"]) == 0
    assert "sdxl-turbo" in capsys.readouterr().out
    assert main(["families", "show", "sdxl"]) == 0
    said = capsys.readouterr().out
    assert SDXL.repo_id in said
    assert SDXL.revision in said
    assert "1024x1024" in said
