"""A control for MoDM: as often, as many steps skipped, but from an image that has nothing to do with the prompt.

What MoDM gains over this, it owes to retrieval and not to starting from just any painted image.
"""

from __future__ import annotations

from underpaint.evidence import Evidence, Match, Needs
from underpaint.policies.modm import Modm


class RandomSource(Modm):
    name = "random-source"
    needs = Needs(matches=Modm.needs.matches, stranger=True)

    def source(self, evidence: Evidence) -> Match | None:
        return evidence.stranger
