"""The cache: lookups beside inserts, and what is full gives way.

The index only proposes; what it proposes is looked up in the store, which says whether it is there, in whose scope,
and how near it really is. So an index that lags behind costs a hit at worst, and never gives a wrong answer.
"""

from __future__ import annotations

import heapq
import logging
import threading
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np

from underpaint.cache.entries import Match, NewEntry, check_embedding, check_space
from underpaint.cache.errors import CorruptFile, StoreUnavailable
from underpaint.cache.eviction import Ageing, Evictor, Strategy
from underpaint.cache.index import Index, NewIndex
from underpaint.cache.scope import tenant_of
from underpaint.cache.shelving import check_lengths, shelve, unshelve, vectors_of
from underpaint.cache.store import Departure, Store, Use
from underpaint.cache.units import Unit
from underpaint.errors import InvalidArgument, NotFound, Unavailable
from underpaint.requests import check_tenant

LOG = logging.getLogger("underpaint.cache")

_RERANKED = 8  # at least so many of what the index proposes are compared exactly
_MAX_TOP_K = 100
_USES_KEPT = 100_000  # that wait for the next insert to be counted; of more, the oldest are forgotten
_REMOVED_AT_A_TIME = 500


@dataclass(frozen=True)
class CacheStats:
    """What is held, and what has happened since the cache was opened.

    ``units`` is what ``capacity`` counts: entries, or states under ``lcbfu``. ``hits`` are lookups that found
    anything at all; whether it is near enough is for a policy to say. ``corrupt`` counts damaged files found. While
    there are ``unsettled`` indexes, lookups in these are slower (see ``settle``).
    """

    entries: int
    units: int
    capacity: int
    eviction: str
    file_bytes: int
    scopes: int
    unsettled: int
    lookups: int
    hits: int
    fetches: int
    inserts: int
    evictions: int
    corrupt: int


class ImageCache:
    """A cache over one folder. Any thread may call.

    Beside the errors that the methods name, all raise StoreUnavailable where disk or database refuse; nothing has
    changed then.
    """

    def __init__(
        self,
        folder: Path,
        capacity: int = 10_000,
        eviction: Strategy = Strategy.FIFO,
        ageing: Ageing | None = None,
        on_gpu: NewIndex | None = None,
    ) -> None:
        """Open the store at ``folder``, or begin one; what is beyond ``capacity`` goes. ``on_gpu``: see ``Index``.

        Raises StoreUnavailable: not readable, not writable, of another version, or open elsewhere.
        """
        self._evictor = Evictor(eviction, capacity, ageing)
        self._store = Store(folder)
        self._index = Index(on_gpu=on_gpu)
        self._lock = threading.RLock()  # of changes; lookups and fetches do without
        self._uses: deque[tuple[int, int | None]] = deque(maxlen=_USES_KEPT)
        self._counts: Counter[str] = Counter()
        self._counts_lock = threading.Lock()
        try:
            self._recall()
            self._index.start()
        except BaseException:
            self.close()
            raise

    def lookup(
        self, space: str, scope: str, embedding: np.ndarray, top_k: int = 1, max_generation: int | None = None
    ) -> list[Match]:
        """The ``top_k`` entries of ``scope`` that are most similar to a text, best first.

        ``space`` says what the text is compared with, ``image`` or ``text``; ``embedding`` is the text's, float32
        [D], of length 1; entries above ``max_generation`` are passed over. Similarity is the cosine.

        Raises InvalidArgument.
        """
        tenant_of(scope)
        check_space(space)
        check_embedding("embedding", embedding)
        if not 1 <= top_k <= _MAX_TOP_K:
            raise InvalidArgument.of("top_k", top_k, f"1 to {_MAX_TOP_K}")
        if max_generation is not None and max_generation < 0:
            raise InvalidArgument.of("max_generation", max_generation, "0 or more")
        proposed = self._index.search(space, scope, embedding, max(_RERANKED, 2 * top_k), max_generation)
        similarities = self._store.similarities(proposed, space, embedding)
        nearest = heapq.nlargest(top_k, similarities, key=lambda entry_id: (similarities[entry_id], -entry_id))
        matches = self._store.matches({entry_id: similarities[entry_id] for entry_id in nearest}, scope)
        self._count("lookups")
        self._count("hits", bool(matches))
        return matches

    def fetch_image(self, entry_id: int) -> np.ndarray:
        """The image of an entry, uint8 [H, W, 3]. Raises NotFound where it has gone or is damaged."""
        return self._fetch(entry_id, None)

    def fetch_start(self, entry_id: int, autoencoder: str) -> np.ndarray:
        """What a refinement starts from: finished latents, float32 [C, h, w], where there are any of this autoencoder,
        else the image. Raises NotFound as the others do."""
        step = self._store.finished(entry_id, autoencoder) if autoencoder else None
        return self._fetch(entry_id, step)

    def fetch_latents(self, entry_id: int, step: int) -> np.ndarray:
        """Latents after ``step`` steps, float32 [C, h, w]. Raises NotFound where they have gone or are damaged."""
        return self._fetch(entry_id, step)

    def insert(self, entry: NewEntry) -> int:
        """Put an entry in, and take out what must make room; returns its id when it is safe.

        Raises:
            InvalidArgument: its embeddings are of another length than those in its scope.
            Unavailable: what must stay leaves no room for it.
        """
        (entry_id,) = self.insert_all([entry])
        return entry_id

    def insert_all(self, entries: Sequence[NewEntry]) -> list[int]:
        """The same for several, all or none of them: safe in one transaction, which is cheaper than one by one.

        Those that exceed the capacity together go in one by one.
        """
        needed = sum(self._evictor.cost(entry.steps) for entry in entries)
        if needed > self._evictor.capacity and len(entries) > 1:
            return [self.insert(entry) for entry in entries]
        with self._lock:
            check_lengths(self._index, entries)
            self._count_uses()
            victims = self._evictor.make_room(needed)
            try:
                used = self._evictor.events + 1
                entry_ids, departed = self._store.exchange(entries, self._departures(victims), used)
            except BaseException:
                self._evictor.restore(victims)
                raise
            unshelve(self._index, departed)
            for entry_id, entry in zip(entry_ids, entries, strict=True):
                self._evictor.add(entry_id, entry.steps, entry.num_inference_steps)
            shelve(self._index, map(vectors_of, entry_ids, entries))
            self._count("inserts", len(entries))
            self._count("evictions", len(victims))
            return entry_ids

    def pin(self, entry_id: int) -> None:
        """Never evict this entry, not even after a restart. Raises NotFound."""
        self._set_pinned(entry_id, True)

    def unpin(self, entry_id: int) -> None:
        """Let this entry be evicted again. Raises NotFound."""
        self._set_pinned(entry_id, False)

    def clear(self, tenant: str | None = None, scope: str | None = None) -> int:
        """Remove the entries of a tenant or scope, or all there are, pinned ones too; how many.

        Raises InvalidArgument for a tenant or scope that cannot be one.
        """
        if tenant is not None:
            check_tenant(tenant)
        if scope is not None:
            tenant_of(scope)
        with self._lock:
            return self._remove([Departure(each) for each in self._store.entry_ids(tenant, scope)])

    def stats(self) -> CacheStats:
        return CacheStats(
            entries=self._store.entry_count,
            units=self._evictor.size,
            capacity=self._evictor.capacity,
            eviction=self._evictor.strategy.value,
            file_bytes=self._store.file_bytes,
            scopes=len({scope for _, scope in self._index.sizes()}),
            unsettled=self._index.due,
            lookups=self._counts["lookups"],
            hits=self._counts["hits"],
            fetches=self._counts["fetches"],
            inserts=self._counts["inserts"],
            evictions=self._counts["evictions"],
            corrupt=self._counts["corrupt"],
        )

    def settle(self) -> None:
        """Wait until every index is arranged as its size asks for; lookups are slower before that."""
        self._index.settle()

    def close(self) -> None:
        """Write down what was counted, and let go of the store."""
        with self._lock:
            try:
                self._count_uses()
            except StoreUnavailable as error:
                LOG.warning("%s; the latest uses are forgotten", error)
            self._index.close()
            self._store.close()

    def __enter__(self) -> ImageCache:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    # Reading

    def _fetch(self, entry_id: int, step: int | None) -> np.ndarray:
        try:
            array = self._store.image(entry_id) if step is None else self._store.latents(entry_id, step)
        except CorruptFile as error:
            self._give_up(entry_id, step, error)
            raise NotFound(f"entry {entry_id}: {error}; it was removed from the cache") from None
        self._uses.append((entry_id, step))
        self._count("fetches")
        return array

    def _give_up(self, entry_id: int, step: int | None, error: CorruptFile) -> None:
        """Remove what is damaged: latents, or the entry. It is said once, since it is gone then."""
        with self._lock:
            whole = step is None or self._evictor.steps_of(entry_id) == (step,)
            LOG.warning("entry %d: %s; %s", entry_id, error, "it is dropped" if whole else "these latents are dropped")
            self._count("corrupt")
            unshelve(self._index, self._store.remove([Departure(entry_id, None if step is None or whole else (step,))]))
            self._evictor.discard(entry_id, None if whole else step)

    # Changing; all of this under the lock

    def _recall(self) -> None:
        """Take up what the store holds, as far as there is room for it now."""
        for holding in self._store.holdings():
            self._evictor.add(holding.entry_id, holding.steps, holding.num_inference_steps, holding.past)
            if holding.pinned:
                self._evictor.pin(holding.entry_id)
        try:
            victims = self._evictor.make_room(0)
        except Unavailable as error:  # more is pinned than fits now: it stays, and nothing comes in
            LOG.warning("%s", error)
        else:
            self._remove(self._departures(victims))
            self._count("evictions", len(victims))
        for batch in self._store.vectors():
            shelve(self._index, batch)

    def _departures(self, victims: Iterable[Unit]) -> list[Departure]:
        """What leaves the store with these units, which have left the evictor."""
        steps: defaultdict[int, list[int]] = defaultdict(list)
        for unit in victims:
            steps[unit.entry_id] += [] if unit.step is None else [unit.step]
        return [
            Departure(entry_id, tuple(own) if self._evictor.steps_of(entry_id) else None)
            for entry_id, own in steps.items()
        ]

    def _remove(self, departures: Sequence[Departure]) -> int:
        """Remove from store, index and evictor alike, part by part; how many entries went."""
        removed = 0
        for begin in range(0, len(departures), _REMOVED_AT_A_TIME):
            departed = self._store.remove(departures[begin : begin + _REMOVED_AT_A_TIME])
            unshelve(self._index, departed)
            for each in departed:
                if each.whole:
                    self._evictor.discard(each.entry_id)
                    removed += 1
        return removed

    def _set_pinned(self, entry_id: int, pinned: bool) -> None:
        with self._lock:
            if not self._store.pin(entry_id, pinned):
                raise NotFound(f"entry {entry_id} is not in the cache, or no longer")
            if pinned:
                self._evictor.pin(entry_id)
            else:
                self._evictor.unpin(entry_id)

    def _count_uses(self) -> None:
        """Tell evictor and store of the fetches since the last time."""
        latest: dict[tuple[int, int | None], Use] = {}
        while self._uses:
            entry_id, step = key = self._uses.popleft()
            self._evictor.use(entry_id, step)
            before = latest[key].count if key in latest else 0
            latest[key] = Use(entry_id, step, before + 1, self._evictor.events)
        if latest:
            self._store.note_uses(list(latest.values()))

    def _count(self, what: str, by: int = 1) -> None:
        with self._counts_lock:
            self._counts[what] += by
