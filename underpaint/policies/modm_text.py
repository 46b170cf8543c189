"""MoDM that looks prompts up by prompts. Which picture shows the very scene, the words of both tell better than a small
CLIP's look at the picture: a repeat can then be told from an edit, and skip nearly everything."""

from __future__ import annotations

from underpaint.evidence import Needs, Query, Reuse, Space
from underpaint.policies.modm import Modm


class ModmText(Modm):
    """MoDM, but text to text, as Nirvana looks things up: tells repeats from edits where captions differ little."""

    name = "modm-text"
    table = "modm_text"
    needs = Needs(matches=Query(Space.TEXT, Reuse.IMAGE, refined=True))
