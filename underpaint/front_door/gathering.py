"""Evidence, gathered for one request: only what its policy needs, cheapest first, and never at the request's expense.

    what costs nothing → may anything be reused → embedding → is the same being painted → will a lookup find anything
    → lookup → a stranger
    the router's score, where it still matters

Where the first chain ends early, the evidence says why, and the request is served without the cache.
"""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass, replace

import numpy as np

from underpaint.deployment import Sampling
from underpaint.errors import InvalidArgument
from underpaint.evidence import Absence, Evidence, Match, Miss, Query, Reuse, Space
from underpaint.front_door.cache_client import Bring, CacheClient
from underpaint.front_door.complaints import Complaints
from underpaint.front_door.costs import Costs
from underpaint.front_door.embedders import Embedders
from underpaint.front_door.foresight import Foresight
from underpaint.front_door.hurry import TooSlow
from underpaint.front_door.registry import Visit
from underpaint.front_door.scopes import Hashes, add_ons, scope_of
from underpaint.front_door.scoring import Scoring
from underpaint.front_door.traffic import Release
from underpaint.front_door.underway import Underway
from underpaint.policies import Policy, Thresholds
from underpaint.requests import GenerateRequest

# An image is the best there is; of latents the best may have been evicted, where the next best's have not.
_TOP_K = {Reuse.IMAGE: 1, Reuse.LATENTS: 8}


@dataclass(frozen=True)
class Patience:
    """How long a request waits for what can only help it, in seconds.

    On a machine that is busy everything takes longer, what the cache would save included; so each wait may take up to
    ``share`` of what painting from noise takes at the moment, if that is more.
    """

    embed_s: float = 1.0
    lookup_s: float = 0.1
    fetch_s: float = 0.5
    score_s: float = 0.25
    share: float = 0.2

    def when_painting_takes(self, painting_s: float) -> Patience:
        """The same for a known duration of painting from noise."""
        least_s = self.share * painting_s
        return replace(
            self,
            embed_s=max(self.embed_s, least_s),
            lookup_s=max(self.lookup_s, least_s),
            fetch_s=max(self.fetch_s, least_s),
            score_s=max(self.score_s, least_s),
        )


@dataclass(frozen=True)
class Search:
    """A policy's query, made concrete for one request.

    ``reach``: the similarity below which a match is of no use; ``alike``: that of prompts from which on to wait for a
    picture that is being painted, and ``painting_s`` how long one takes; ``top_k``: how many matches are wanted, of
    entries up to ``max_generation``; ``predicted``: whether to ask the match predictor first; ``stranger``: whether one
    is wanted as well; ``bring``: what should come along of what will be reused; ``patience``: how long it may take.
    """

    space: Space
    scope: str
    reach: float
    alike: float
    painting_s: float
    top_k: int
    max_generation: int
    predicted: bool
    stranger: bool
    bring: Bring
    patience: Patience


class NoMatches(Exception):
    """There are none, and why."""

    def __init__(self, why: Miss, detail: str = "") -> None:
        super().__init__(why, detail)
        self.absence = Absence(why, detail)


class Gatherer:
    """Asks the embedders, the match predictor and the cache."""

    def __init__(
        self,
        embedders: Embedders,
        foresight: Foresight,
        cache: CacheClient,
        costs: Costs,
        patience: Patience,
        complaints: Complaints,
        scoring: Scoring,
        underway: Underway,
        hashes: Hashes | None = None,
    ) -> None:
        self._underway, self._hashes = underway, hashes
        self._embedders, self._foresight, self._cache = embedders, foresight, cache
        self._costs, self._patience, self._complaints, self._scoring = costs, patience, complaints, scoring

    async def gather(
        self, policy: Policy, request: GenerateRequest, release: Release, visit: Visit, in_flight: int
    ) -> Evidence:
        """What ``policy`` needs to know. What cannot be found out is missing, with the reason; that is no error."""
        has_any = request.lora or request.controlnet
        named = await asyncio.to_thread(add_ons, request, self._hashes) if has_any else ()
        evidence = await self._gather(policy, request, release, visit, in_flight, named)
        if not policy.asks_router(request, evidence, release.settings):
            return evidence
        settings, large = release.settings, release.settings.large
        painting_s = evidence.measured.step_ms.get(large, 0.0) * settings.steps(request, large) / 1e3
        within_s = self._patience.when_painting_takes(painting_s).score_s
        return replace(evidence, router_score=await self._scoring.route(request, visit, within_s))

    async def _gather(
        self,
        policy: Policy,
        request: GenerateRequest,
        release: Release,
        visit: Visit,
        in_flight: int,
        named: tuple[str, ...],
    ) -> Evidence:
        """What costs nothing, and what the cache has."""
        if request.reproducible:  # the same at all times, and so is the plan
            return Evidence(in_flight=1, absence=Absence(Miss.OFF), add_ons=named)
        evidence = Evidence(in_flight, visit.time_left_s(), self._costs.measured, add_ons=named)
        if policy.needs.matches is None:
            return evidence
        try:
            search = self._search(policy, request, release, named)
            with visit.timed("embed"):
                embedding = await self._embedders.text(request.prompt, search.patience.embed_s)
            evidence = replace(evidence, embedding=embedding)
            with visit.timed("awaited"):
                came = await self._underway.wait(search.scope, embedding, search.alike, _spare_s(search, visit))
            with visit.timed("lookup"):
                return await self._look_up(search, embedding, evidence, request, sure=came)
        except NoMatches as none:
            return evidence.without_matches(none.absence)
        except Exception as error:  # whatever it is, the request can be served without the cache
            self._complaints.about("cache", str(error))
            return evidence.without_matches(absence_after(error))

    def _search(self, policy: Policy, request: GenerateRequest, release: Release, named: tuple[str, ...]) -> Search:
        """What to look for, if there is any point in it. Raises NoMatches."""
        deployment, settings = release.deployment, release.settings
        query, thresholds = policy.needs.matches, policy.thresholds(settings)
        if query is None or not request.reads_cache:
            raise NoMatches(Miss.OFF)
        if settings.uncalibrated or not thresholds.rows:
            unmeasured = f"no thresholds have been measured for {policy.name}; run `underpaint calibrate`"
            raise NoMatches(Miss.UNCALIBRATED, settings.uncalibrated or unmeasured)
        variant = deployment.variant(request.variant or settings.large)
        try:
            sampling = deployment.sampling(request, variant)
        except InvalidArgument as misfit:
            raise NoMatches(Miss.UNFIT) from misfit
        painting_s = self._costs.painting_s(variant.name, sampling)
        return Search(
            space=query.space,
            scope=scope_of(query.reuse, deployment, variant.name, request, sampling, named),
            reach=thresholds.reach,
            alike=policy.alike(settings),
            painting_s=painting_s,
            top_k=_TOP_K[query.reuse],
            max_generation=settings.max_generation - 1,  # what is made from an entry is one further from noise
            predicted=query.predicted and settings.predict,
            stranger=policy.needs.stranger,
            bring=_bring(query, thresholds, sampling, deployment.variant(settings.refiner).autoencoder),
            patience=self._patience.when_painting_takes(painting_s),
        )

    async def _look_up(
        self, search: Search, embedding: np.ndarray, evidence: Evidence, request: GenerateRequest, sure: bool
    ) -> Evidence:
        """The evidence with matches. ``sure``: there is no need to ask the predictor. Raises NoMatches."""
        predicted = search.predicted and not sure
        told = self._foresight.consult(search.scope, search.reach, embedding) if predicted else _nobody
        if told is None:
            raise NoMatches(Miss.PREDICTED)
        matches = await self._ask(search, embedding, None if search.stranger else search.bring)
        found = bool(matches) and matches[0].similarity >= search.reach
        told(found)
        if not matches:
            raise NoMatches(Miss.EMPTY)
        wanted = search.stranger and found
        whatever = replace(search.bring, limits=((-1.0, 0),))
        strangers = await self._ask(search, direction(request, len(embedding)), whatever) if wanted else ()
        return replace(evidence, matches=matches, stranger=strangers[0] if strangers else None)

    async def _ask(self, search: Search, embedding: np.ndarray, bring: Bring | None) -> tuple[Match, ...]:
        return await self._cache.lookup(
            search.space,
            search.scope,
            embedding,
            search.top_k,
            search.max_generation,
            search.patience.lookup_s,
            bring,
        )


def _bring(query: Query, thresholds: Thresholds, sampling: Sampling, autoencoder: str) -> Bring:
    """Of an entry that is similar enough for something."""
    rows = thresholds.rows
    if query.reuse is Reuse.IMAGE:
        return Bring(tuple((row.similarity, 0) for row in rows[-1:]), autoencoder if query.refined else "")
    steps = sampling.num_inference_steps
    return Bring(tuple((row.similarity, thresholds.steps(row.similarity, steps)) for row in rows))


def _spare_s(search: Search, visit: Visit) -> float:
    """How long a request may wait for another's picture, and still be painted in full in time if that never comes."""
    left_s = visit.promise_left_s()
    return search.painting_s if left_s is None else min(search.painting_s, left_s - search.painting_s)


def direction(request: GenerateRequest, dimensions: int) -> np.ndarray:
    """A random unit vector, float32 [D], always the same for the same seed.

    The entry closest to it has nothing to do with the prompt, and any is about as likely as any other: among 2,000
    images of the tiny family, 4,000 directions led to 1,627; fair draws would have to 1,729.
    """
    digest = hashlib.sha256(f"direction {request.seed}".encode()).digest()
    vector = np.random.default_rng(int.from_bytes(digest[:8])).standard_normal(dimensions)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def absence_after(error: Exception) -> Absence:
    """What it means for the request that an embedder or the cache failed."""
    return Absence(Miss.SLOW if isinstance(error, TooSlow) else Miss.UNAVAILABLE, str(error))


def _nobody(found: bool) -> None:
    """Is told what a lookup found where nobody guessed."""
