"""What may be found in the cache for a request with add-ons."""

from __future__ import annotations

import numpy as np
import pytest

from underpaint.deployment import Deployment, Variant
from underpaint.evidence import Reuse
from underpaint.front_door.scopes import add_ons, scope_of
from underpaint.requests import GenerateRequest

PAINTER = Variant("painter", 8, 100, 3.0, 20.0, ((64, 64),), ("ddim",), 22, loras=True, controlnets=True)
DEPLOYMENT = Deployment("family", {"painter": PAINTER}, "painter", "painter")
BLACK, WHITE = (np.full((1, 64, 64, 3), level, np.uint8) for level in (0, 255))
TOLD = {"controlnet": "layout", "control_image": BLACK}


class Files:
    """What add-ons hold, by name."""

    def __init__(self, **digests: str) -> None:
        self._digests = digests

    def lora(self, name: str) -> str:
        return self._digests.get(name, "")

    controlnet = lora


def scope(reuse: Reuse, files: Files | None = None, **fields: object) -> str:
    request = GenerateRequest("a circle", seed=1, **fields)  # type: ignore[arg-type]
    sampling = DEPLOYMENT.sampling(request, PAINTER)
    return scope_of(reuse, DEPLOYMENT, "painter", request, sampling, add_ons(request, files))


@pytest.mark.parametrize("reuse", list(Reuse))
@pytest.mark.parametrize(
    "other",
    [
        {},
        {"lora": "night"},
        {**TOLD, "control_image": WHITE},
        {**TOLD, "controlnet": "edges"},
        {**TOLD, "controlnet": "layout:0.5"},
        {**TOLD, "controlnet": "layout:1:0:0.5"},
        {**TOLD, "controlnet_stale": True},
        {**TOLD, "lora": "night"},
    ],
)
def test_what_was_told_otherwise_is_something_else(reuse: Reuse, other: dict[str, object]) -> None:
    assert scope(reuse, **TOLD) != scope(reuse, **other)


@pytest.mark.parametrize("reuse", list(Reuse))
def test_the_same_is_found_again_however_it_is_put(reuse: Reuse) -> None:
    assert scope(reuse, **TOLD) == scope(reuse, controlnet="layout:1:0:1", control_image=BLACK.copy())
    assert scope(reuse, guidance_split=True) == scope(reuse), "it changes the time, not the image"


@pytest.mark.parametrize("reuse", list(Reuse))
@pytest.mark.parametrize(("name", "told"), [("night", {"lora": "night:0.5"}), ("layout", TOLD)])
def test_a_file_that_was_replaced_is_another_add_on(reuse: Reuse, name: str, told: dict[str, object]) -> None:
    old, new = Files(**{name: "aa"}), Files(**{name: "bb"})
    assert scope(reuse, old, **told) == scope(reuse, Files(**{name: "aa"}), **told)
    assert len({scope(reuse, files, **told) for files in (old, new, None)}) == 3
