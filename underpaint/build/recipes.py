"""Recipes: what a family consists of and how it is to be served, in ``build/families/*.toml``."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from underpaint.errors import InvalidArgument

Recipe = TypeVar("Recipe", bound="VariantRecipe | FamilyRecipe")


@dataclass(frozen=True)
class VariantRecipe:
    """One variant: its sampling defaults and limits, and how its UNet is run.

    ``max_rows`` is the batch limit of one UNet call; ``unet_instances`` processes run it side by side, each with
    ``unet_threads`` threads on a CPU; ``unet_timeout_s`` is how long a call may take before it counts as lost.
    """

    name: str
    sizes: tuple[tuple[int, int], ...]
    num_inference_steps: int
    max_inference_steps: int
    guidance_scale: float
    max_guidance_scale: float
    max_rows: int
    unet_instances: int = 1
    unet_threads: int = 1
    unet_timeout_s: float = 10.0


@dataclass(frozen=True)
class FamilyRecipe:
    """A family and which of its variants play the small and the large role."""

    name: str
    small: str
    large: str
    variants: tuple[VariantRecipe, ...]


def load_recipe(path: Path) -> FamilyRecipe:
    """Read and check a recipe.

    Raises:
        InvalidArgument: a name is unknown or missing, or a role names no variant.
    """
    raw = tomllib.loads(path.read_text())
    variants = tuple(_build(VariantRecipe, _with_sizes(v), path) for v in raw.pop("variants", []))
    family = _build(FamilyRecipe, {**raw, "variants": variants}, path)
    for role in ("small", "large"):
        if getattr(family, role) not in {v.name for v in variants}:
            raise InvalidArgument.of(f"{path.name}: {role}", getattr(family, role), ", ".join(v.name for v in variants))
    return family


def _with_sizes(raw: Mapping[str, Any]) -> dict[str, Any]:
    return {**raw, "sizes": tuple((width, height) for width, height in raw.get("sizes", ()))}


def _build(kind: type[Recipe], raw: Mapping[str, Any], path: Path) -> Recipe:
    names = {f.name for f in fields(kind)}
    required = {f.name for f in fields(kind) if f.default is MISSING}
    for name in raw:
        if name not in names:
            raise InvalidArgument.of(f"{path.name}: key", name, ", ".join(sorted(names)))
    missing = required - set(raw)
    if missing:
        raise InvalidArgument(
            f"{path.name}: {', '.join(sorted(missing))} missing from {raw.get('name', kind.__name__)}"
        )
    return kind(**raw)
