"""Contact sheets of what was served: what a picture was painted from, the picture, and vanilla's beside it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from underpaint.bench.demand.served import Served
from underpaint.client.contact_sheet import COLUMNS, Row, contact_sheet

_BANDS = 4


def policy_sheet(policy: str, served: Sequence[Served], vanilla: Sequence[Served], note: str) -> Image.Image:
    """Some of a policy's pictures, spread evenly over the run: those that have a source, if any have."""
    beside = {each.item.index: each.image for each in vanilla}
    both = [each for each in served if each.item.index in beside]
    chosen = spread([each for each in both if each.account.hit] or both, COLUMNS * _BANDS)
    rows = [
        Row(policy, note, [each.image for each in chosen]),
        Row("vanilla", "same seed", [beside[each.item.index] for each in chosen]),
    ]
    if any(each.account.hit for each in chosen):
        # Every request of a workload has a seed of its own, which tells whose picture the source is.
        painted = {each.item.seed: each.image for each in (*vanilla, *served)}
        sources = [None if s is None else painted.get(s) for s in (each.account.source_seed for each in chosen)]
        rows.insert(0, Row("source", "", sources, without="none in this run"))
    return contact_sheet(f"{policy} beside vanilla", [_caption(each) for each in chosen], rows)


def spread(served: Sequence[Served], count: int) -> list[Served]:
    """At most ``count`` of them, evenly spaced, first and last included."""
    places = np.unique(np.linspace(0, len(served) - 1, min(count, len(served))).round().astype(int))
    return [served[place] for place in places]


def _caption(served: Served) -> str:
    account = served.account
    if not account.hit:
        return served.item.caption
    similarity = "" if account.similarity is None else f", similarity {account.similarity:.2f}"
    return f"{served.item.caption} ({account.skipped:.0%} skipped{similarity})"
