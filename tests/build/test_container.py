"""The container is described by files that fit the checkout. It is not built here: that needs Docker."""

from __future__ import annotations

import json
import re
import tomllib
from importlib.util import find_spec
from pathlib import Path

import yaml

from underpaint.server.command import CONTAINER, native_line
from underpaint.server.options import ServerOptions

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = (ROOT / "build" / "Dockerfile").read_text()
COMPOSE = yaml.safe_load((ROOT / "build" / "compose.yaml").read_text())
INSTRUCTIONS = re.sub(r"\\\n\s*", "", DOCKERFILE).splitlines()


def arguments(instruction: str) -> list[str]:
    return [line.removeprefix(f"{instruction} ") for line in INSTRUCTIONS if line.startswith(f"{instruction} ")]


def test_it_stands_on_the_container_that_the_launcher_names() -> None:
    assert arguments("FROM") == [CONTAINER]


def test_everything_that_is_copied_is_there() -> None:
    sources = [source for line in arguments("COPY") for source in line.split()[:-1]]
    assert {"pyproject.toml", "underpaint"} <= set(sources)
    assert [source for source in sources if not (ROOT / source).exists()] == []


def test_everything_that_the_package_is_made_of_is_copied() -> None:
    """Hatch wants the readme and the folders that it puts into the wheel."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    needed = [project["project"]["readme"], *wheel["packages"], *wheel["force-include"]]
    copied = " ".join(arguments("COPY")).split()
    assert [path for path in needed if path not in copied] == []


def test_it_runs_what_the_launcher_prints() -> None:
    (command,) = arguments("CMD")
    assert " ".join(json.loads(command)) == native_line(ServerOptions(Path("/models")), ["*"]).replace("'", "")


def test_its_health_is_that_of_all_models() -> None:
    kind, *command = COMPOSE["services"]["serve"]["healthcheck"]["test"]
    assert (kind, command[:2]) == ("CMD", ["python3", "-m"])
    assert find_spec(command[2]) is not None


def test_compose_serves_the_repository_that_is_committed() -> None:
    serve, on_cpu = COMPOSE["services"]["serve"], COMPOSE["services"]["serve-cpu"]
    folder = ROOT / "build"
    assert (folder / serve["build"]["context"] / serve["build"]["dockerfile"]).is_file()
    mounts = dict(volume.rsplit(":ro", 1)[0].rsplit(":", 1) for volume in serve["volumes"] if volume.endswith(":ro"))
    sources = {re.sub(r"\$\{\w+:-(.*)\}", r"\1", source): target for source, target in mounts.items()}
    assert sources == {"../model_repository": "/models", "../addons": "/addons"}
    assert all((folder / source).is_dir() for source in sources)
    assert "cache:/cache" in serve["volumes"]
    assert "cache" in COMPOSE["volumes"]
    assert (on_cpu["deploy"], on_cpu["profiles"], on_cpu["volumes"]) == ({}, ["cpu"], serve["volumes"])
