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
BENCH = PACKAGE / "bench"
SHARED = {"common", "demand", "judging", "serving"}
BENCH_MAY_IMPORT = {
    "common": set(),
    "demand": set(),
    "serving": {"common", "demand"},
    "judging": {"common", "demand"},
    **dict.fromkeys(
        ("addons", "cache", "calibration", "cascades", "control", "denoising", "endurance", "models", "policies"),
        SHARED,
    ),
}


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports_of(path: Path, house: str = "underpaint") -> set[str]:
    """The rooms of a house that a file imports from."""
    names = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            inside = [f"{house}.{alias.name}" for alias in node.names] if node.module == house else [node.module]
            names += inside
        elif isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
    start = f"{house}."
    return {name.removeprefix(start).split(".")[0] for name in names if name.startswith(start)} - {"__version__"}


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_dependencies_point_one_way(room: str) -> None:
    files = [PACKAGE / f"{room}.py"] if room in VOCABULARY else sorted((PACKAGE / room).rglob("*.py"))
    assert files
    for path in files:
        foreign = imports_of(path) - MAY_IMPORT[room] - {room}
        assert not foreign, f"{path.relative_to(ROOT)} imports from {', '.join(sorted(foreign))}"


def test_rooms_of_the_bench_import_only_what_they_share() -> None:
    assert {path.name for path in BENCH.iterdir() if path.is_dir()} - {"__pycache__"} == set(BENCH_MAY_IMPORT)
    for room, allowed in BENCH_MAY_IMPORT.items():
        for path in sorted((BENCH / room).rglob("*.py")):
            foreign = imports_of(path, "underpaint.bench") - allowed - {room}
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
