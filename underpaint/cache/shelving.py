"""Where entries stand in the index: on a shelf for every space and scope that they may be found in."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable

import numpy as np

from underpaint.cache.entries import NewEntry, shelves
from underpaint.cache.index import Index
from underpaint.cache.reader import Vectors
from underpaint.cache.store import Departed
from underpaint.errors import InvalidArgument

LOG = logging.getLogger("underpaint.cache")


def shelve(index: Index, batch: Iterable[Vectors]) -> None:
    """Put entries on their shelves, but for those whose vectors are not as long as the others' there."""
    groups: defaultdict[tuple[str, str, int], list[Vectors]] = defaultdict(list)
    for each in batch:
        for space, scope in shelves(each.image_scope, each.latents_scope):
            groups[space, scope, len(each.of(space))].append(each)
    for (space, scope, dimension), group in groups.items():
        if index.dimension(space, scope) not in (None, dimension):
            LOG.warning("%d vectors of %s have another length: run 'underpaint cache verify'", len(group), scope)
            continue
        vectors = np.stack([each.of(space) for each in group])
        index.add(space, scope, [e.entry_id for e in group], [e.generation for e in group], vectors)


def unshelve(index: Index, departed: Iterable[Departed]) -> None:
    """Take off entries that have left; of those that only lost their last latents, what those were found by."""
    for each in departed:
        found_under = shelves(each.image_scope, each.latents_scope)
        for space, scope in found_under if each.whole else found_under[2:]:
            index.remove(space, scope, each.entry_id, each.generation)


def check_lengths(index: Index, entries: Iterable[NewEntry]) -> None:
    """Raises InvalidArgument where vectors are not as long as the others in their scope."""
    wanted: dict[tuple[str, str], int] = {}  # also by those of these entries that come before
    for entry in entries:
        given = len(entry.image_embedding)
        for shelf in shelves(entry.image_scope, entry.latents_scope):
            wanted[shelf] = wanted.get(shelf) or index.dimension(*shelf) or given
            if given != wanted[shelf]:
                allowed = f"{wanted[shelf]}, as others in the scope {shelf[1]}"
                raise InvalidArgument.of("embeddings", f"{given} numbers", allowed)


def vectors_of(entry_id: int, entry: NewEntry) -> Vectors:
    """What the index has to know of a new entry."""
    latents_scope = entry.latents_scope if entry.latents else None
    return Vectors(
        entry_id, entry.generation, entry.image_scope, latents_scope, entry.image_embedding, entry.text_embedding
    )
