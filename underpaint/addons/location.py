"""Where LoRAs are looked for unless somebody says otherwise."""

from __future__ import annotations

import os
from pathlib import Path

VARIABLE = "UNDERPAINT_LORAS"


def lora_sources(model_repository: Path) -> tuple[str, ...]:
    """What the environment names in ``UNDERPAINT_LORAS`` (folders and URLs, with spaces between them), in order of
    precedence; else the folder ``addons/lora`` beside the model repository."""
    named = os.environ.get(VARIABLE, "").split()
    return tuple(named) or (str(model_repository.absolute().parent / "addons" / "lora"),)
