"""The command line as a whole: every command is there, and one whose packages are missing says which."""

from __future__ import annotations

import importlib
from types import ModuleType

import pytest

from underpaint import cli


@pytest.mark.parametrize("command", [name for room in cli._ROOMS for name in room.commands] + ["train"])
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main([command, "--help"])
    assert ended.value.code == 0
    assert "usage: underpaint" in capsys.readouterr().out


def test_a_command_whose_packages_are_missing_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = importlib.import_module

    def without_psutil(name: str) -> ModuleType:
        if name == "underpaint.server.cli":
            raise ModuleNotFoundError("No module named 'psutil'", name="psutil")
        return real(name)

    monkeypatch.setattr(importlib, "import_module", without_psutil)
    assert cli.main(["serve", "--http-port", "1"]) == 2
    assert capsys.readouterr().err == "underpaint: needs psutil: pip install 'underpaint[embedded]'\n"


def test_a_missing_module_of_ours_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> ModuleType:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(importlib, "import_module", broken)
    with pytest.raises(ModuleNotFoundError):
        cli.main(["serve"])
