"""Dependencies point one way (see ARCHITECTURE.md), and documents do not point to what is not there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "underpaint"
VOCABULARY = {"requests", "errors", "deployment", "images", "latest", "releases", "wishes"}
MAY_IMPORT = {
    **dict.fromkeys(VOCABULARY, VOCABULARY),
    "addons": VOCABULARY,
    "diffusion": VOCABULARY,
    "evidence": VOCABULARY,
    "policies": VOCABULARY | {"evidence"},
    "cache": VOCABULARY,
    "control": VOCABULARY | {"evidence", "policies"},
    "front_door": VOCABULARY | {"evidence", "policies", "cache"},
    "triton": VOCABULARY | {"evidence", "policies", "front_door", "diffusion", "cache", "addons"},
    "server": VOCABULARY | {"cache"},
    "monitor": VOCABULARY | {"evidence", "control", "server", "cache"},
    "rollout": VOCABULARY | {"build", "cache", "front_door", "monitor", "server", "triton"},
    "build": VOCABULARY | {"diffusion", "triton", "addons"},
    "client": VOCABULARY | {"front_door", "policies", "server"},
    "bench": VOCABULARY
    | {"client", "build", "front_door", "policies", "cache", "control", "evidence", "monitor", "addons", "server"},
}


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports_of(path: Path) -> set[str]:
    """The rooms that a file imports from."""
    names = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            inside = (
                [f"underpaint.{alias.name}" for alias in node.names] if node.module == "underpaint" else [node.module]
            )
            names += inside
        elif isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
    return {name.split(".")[1] for name in names if name.startswith("underpaint.")} - {"__version__"}


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_dependencies_point_one_way(room: str) -> None:
    files = [PACKAGE / f"{room}.py"] if room in VOCABULARY else sorted((PACKAGE / room).rglob("*.py"))
    assert files
    for path in files:
        foreign = imports_of(path) - MAY_IMPORT[room] - {room}
        assert not foreign, f"{path.relative_to(ROOT)} imports from {', '.join(sorted(foreign))}"


def test_only_adapters_know_the_python_backend() -> None:
    users = {room_of(path) for path in PACKAGE.rglob("*.py") if "triton_python_backend_utils" in path.read_text()}
    assert users == {"triton"}


@pytest.mark.parametrize("document", sorted(ROOT.glob("*.md")) + sorted(ROOT.glob("docs/*.md")), ids=lambda p: p.name)
def test_documents_have_no_dead_links_and_no_placeholders(document: Path) -> None:
    text = document.read_text()
    assert not re.search(r"@[A-Z]{3,}@", text)
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", text):
        if "://" not in target:
            assert (document.parent / target).exists(), target
