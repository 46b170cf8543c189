"""Miniatures of the UNet families, built once for all tests that look at them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.build.families.miniatures import write_sd15, write_sdxl
from underpaint.build.build_cli import find_recipe
from underpaint.build.checkpoint import Checkpoint
from underpaint.build.family import build
from underpaint.build.plan import Plan, plan_build

RECIPE = Path(__file__).with_name("unet_pair.toml")


@dataclass(frozen=True)
class Built:
    """A repository, what it was planned from, and what its build said."""

    repository: Path
    plan: Plan
    lines: tuple[str, ...]


@pytest.fixture(scope="session")
def unet_checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Sequence[Path]:
    """sd15's and SDXL's."""
    folder = tmp_path_factory.mktemp("hub")
    return write_sd15(folder / "sd15"), write_sdxl(folder / "sdxl")


@pytest.fixture(scope="session")
def unet_plan(unet_checkpoints: Sequence[Path]) -> Plan:
    return planned(unet_checkpoints)


def planned(folders: Sequence[Path]) -> Plan:
    recipe = find_recipe(str(RECIPE))
    names = (variant.name for variant in recipe.variants)
    return plan_build(recipe, dict(zip(names, map(Checkpoint, folders), strict=True)))


@pytest.fixture(scope="session")
def unet_pair(unet_plan: Plan, tmp_path_factory: pytest.TempPathFactory) -> Built:
    repository, lines = tmp_path_factory.mktemp("built") / "repository", []
    build(unet_plan, repository, fused=True, tell=lines.append)
    return Built(repository, unet_plan, tuple(lines))
