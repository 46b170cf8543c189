"""A workload for the tiny family with the locality of real prompts.

What makes caching pay is that people ask for what has been asked before, nearly. The mix is that of the first 5,000
prompts of DiffusionDB, by how similar each is to its nearest earlier one (all-MiniLM-L6-v2): 32% above .95, 18% from
.85, 23% from .65, 27% below. Captions of this family are too alike for such scores to mean anything, so the same
shares are made by hand: repeats and rewordings, one attribute changed, two or three changed, and fresh scenes.

Requests come from sessions that overlap in time. A request goes back to its own session or, less often, to any earlier
one, where the popularity of what is asked for follows Zipf's law.
"""

from __future__ import annotations

import bisect
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import Enum

from underpaint.build.tiny.edits import edit, placed_anew, told_the_other_way
from underpaint.build.tiny.facts import facts
from underpaint.build.tiny.scenes import PHRASINGS, Scene, Split, caption, is_held_out, scene_at

STREAM = 40_000  # seeds of scene streams from here on are the workload's; training and evaluation use the first few
SESSIONS_AT_ONCE = 12
LEAVING = 0.1  # chance that a session ends with a request: ten requests each
LOYALTY = 0.5  # share of related requests that go back to their own session
VERBATIM = 0.5  # share of repeats that repeat the very words
MAX_SEED = 2**31 - 1

_ATTEMPTS = 60


class Relation(Enum):
    """What a request has to do with its parent, an earlier request."""

    FRESH = "fresh"
    REPEAT = "repeat"
    ONE_EDIT = "one edit"
    FEW_EDITS = "few edits"


MIX = {Relation.REPEAT: 0.32, Relation.ONE_EDIT: 0.18, Relation.FEW_EDITS: 0.23, Relation.FRESH: 0.27}
_EDITS = {Relation.ONE_EDIT: (1,), Relation.FEW_EDITS: (2, 3)}


@dataclass(frozen=True)
class WorkItem:
    """One request. ``parent``: the index of the earlier request that it varies; None for a fresh one."""

    index: int
    scene: Scene
    caption: str
    seed: int
    relation: Relation
    parent: int | None
    session: int


def workload(seed: int, split: Split = Split.TRAINING) -> Iterator[WorkItem]:
    """Requests in arrival order, without end; the same ones for the same seed.

    Args:
        split: with HELD_OUT, every scene holds a combination that training never showed; otherwise none does.
    """
    generator = _Workload(seed, split)
    while True:
        yield generator.next_item()


# The generator --------------------------------------------------------------------------------------------------


class _Workload:
    """What has been asked for so far, and who is asking at the moment."""

    def __init__(self, seed: int, split: Split) -> None:
        self._rng = random.Random(f"workload/{seed}")
        self._stream, self._split = STREAM + seed, split
        self._items: list[WorkItem] = []
        self._topics: list[list[WorkItem]] = []  # a fresh request, and all that descend from it
        self._topic_of: list[int] = []  # by index
        self._reach: list[float] = []  # running sum of the topics' popularity
        self._told: set[tuple[int, ...]] = set()
        self._last: dict[int, WorkItem] = {}  # by session
        self._deck: list[Relation] = []
        self._sessions = list(range(SESSIONS_AT_ONCE))
        self._next_session, self._next_scene = SESSIONS_AT_ONCE, 0

    def next_item(self) -> WorkItem:
        seat = self._rng.randrange(SESSIONS_AT_ONCE)
        session, relation = self._sessions[seat], self._relation()
        item = self._fresh(session) if relation is Relation.FRESH else self._related(session, relation)
        self._remember(item)
        if self._rng.random() < LEAVING:
            del self._last[session]
            self._sessions[seat], self._next_session = self._next_session, self._next_session + 1
        return item

    def _relation(self) -> Relation:
        """Dealt from a deck of a hundred, so that the shares hold for short workloads, too."""
        if not self._deck:
            self._deck = [relation for relation, share in MIX.items() for _ in range(round(100 * share))]
            self._rng.shuffle(self._deck)
        return self._deck.pop() if self._items else Relation.FRESH

    def _fresh(self, session: int) -> WorkItem:
        while True:
            scene = scene_at(self._stream, self._next_scene, self._split)
            self._next_scene += 1
            if tuple(facts(scene)) not in self._told:
                return self._item(scene, Relation.FRESH, None, session)

    def _related(self, session: int, relation: Relation) -> WorkItem:
        while True:
            parent = self._parent(session)
            if relation is Relation.REPEAT:
                return self._repeat(parent, session)
            scene = self._new_edit(parent.scene, relation)
            if scene is not None:
                return self._item(scene, relation, parent.index, session)

    def _repeat(self, parent: WorkItem, session: int) -> WorkItem:
        if self._rng.random() < VERBATIM:
            return replace(self._item(parent.scene, Relation.REPEAT, parent.index, session), caption=parent.caption)
        told = self._rng.choice((parent.scene, told_the_other_way(parent.scene)))
        return self._item(told, Relation.REPEAT, parent.index, session)

    def _parent(self, session: int) -> WorkItem:
        """The latest of the session, or one of a topic that is chosen by its popularity."""
        own = self._last.get(session)
        if own is not None and self._rng.random() < LOYALTY:
            return own
        topic = bisect.bisect_right(self._reach, self._rng.random() * self._reach[-1])
        return self._rng.choice(self._topics[min(topic, len(self._topics) - 1)])

    def _new_edit(self, scene: Scene, relation: Relation) -> Scene | None:
        """An edit that nobody has asked for yet, or it would be a repeat; None where that is hard to find."""
        count = self._rng.choice(_EDITS[relation])
        for _ in range(_ATTEMPTS):
            edited = edit(self._rng, scene, count)
            if edited and self._in_split(edited) and tuple(facts(edited)) not in self._told:
                return placed_anew(self._rng, edited)
        return None

    def _in_split(self, scene: Scene) -> bool:
        return any(map(is_held_out, scene.things)) == (self._split is Split.HELD_OUT)

    def _item(self, scene: Scene, relation: Relation, parent: int | None, session: int) -> WorkItem:
        words = caption(scene, self._rng.randrange(PHRASINGS))
        return WorkItem(len(self._items), scene, words, self._rng.randint(0, MAX_SEED), relation, parent, session)

    def _remember(self, item: WorkItem) -> None:
        if item.parent is None:
            # Weights of 1/u are spread like Zipf's law with exponent 1, whatever their number.
            popularity = 1 / (1 - self._rng.random())
            self._reach.append(popularity + (self._reach[-1] if self._reach else 0.0))
            self._topics.append([])
        topic = len(self._topics) - 1 if item.parent is None else self._topic_of[item.parent]
        self._topic_of.append(topic)
        self._topics[topic].append(item)
        self._told.add(tuple(facts(item.scene)))
        self._items.append(item)
        self._last[item.session] = item
