"""What comes out of ``underpaint bench policies``: every policy beside vanilla, and beside what its cache allows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import mean
from typing import Any

import numpy as np

from underpaint.bench.demand.served import Account
from underpaint.bench.judging.flops import VariantCost
from underpaint.bench.judging.quality import (
    Embedder,
    Gallery,
    Judged,
    Quality,
    QualityRatios,
    examine,
    fresh_renders,
    quality,
    quality_ratios,
)
from underpaint.bench.policies.contest import VANILLA, Contest, Speed, processor_ms, speed


@dataclass(frozen=True)
class Work:
    """What a policy did for its images.

    Attributes:
        hit_rate: share of the images that were not painted from noise.
        steps_skipped: mean share of the steps that were not run, over all images; ``…_on_hits``: over those alone.
        gflop_per_image: see ``judging.flops``; ``compute_ratio``: to vanilla's for the same requests.
        stages_ms: mean milliseconds in each stage of a hit and of a miss, see ``outcome.Timings``.
        hit_overhead_share: of the time of all hits, what was neither denoising nor waiting for it; ``hit_cache_share``:
            the part of that which is the cache's (embedding, lookup, fetch). None where nothing hit.
    """

    images: int
    failures: int
    hit_rate: float
    steps_skipped: float
    steps_skipped_on_hits: float
    gflop_per_image: float
    compute_ratio: float
    stages_ms: Mapping[str, Mapping[str, float]]
    hit_overhead_share: float | None
    hit_cache_share: float | None


@dataclass(frozen=True)
class PolicyResult:
    """Of one policy, beside vanilla on the same requests. Without quality where judging was cut short.

    ``latency_p50_ms``, ``latency_p99_ms``: at saturation. ``processor_ms``: of the server, an image, by model;
    ``processor_ratio``: to vanilla's. Both without anything in them where the server was not ours.
    """

    speed: Speed
    work: Work
    latency_p50_ms: float
    latency_p99_ms: float
    bound: Bound
    processor_ms: Mapping[str, float] = field(default_factory=dict)
    processor_ratio: float | None = None
    quality: Quality | None = None
    ratios: QualityRatios | None = None

    def to_json(self) -> dict[str, Any]:
        """Flat, ratios first; latencies are milliseconds."""
        ratios = {} if self.ratios is None else asdict(self.ratios)
        return {
            "throughput_ratio": self.speed.ratio,
            **{f"{name}_ratio": ratios.get(name) for name in ("accuracy", "fid", "clip", "diversity")},
            "compute_ratio": self.work.compute_ratio,
            "hit_rate": self.work.hit_rate,
            "steps_skipped": self.work.steps_skipped,
            "latency_p50": self.latency_p50_ms,
            "latency_p99": self.latency_p99_ms,
            "throughput_ratio_slices": list(self.speed.slice_ratios),
            "accuracy_ratio_low": ratios.get("accuracy_low"),
            "accuracy_ratio_high": ratios.get("accuracy_high"),
            "all_right_ratio": ratios.get("all_right"),
            "images_per_s": self.speed.images_per_s,
            **({} if self.quality is None else asdict(self.quality)),
            "steps_skipped_on_hits": self.work.steps_skipped_on_hits,
            "gflop_per_image": self.work.gflop_per_image,
            "cpu_ms_per_image": sum(self.processor_ms.values()) or None,
            "cpu_ratio": self.processor_ratio,
            "cpu_ms_by_model": self.processor_ms,
            "stages_ms": self.work.stages_ms,
            "hit_overhead_share": self.work.hit_overhead_share,
            "hit_cache_share": self.work.hit_cache_share,
            "images": self.work.images,
            "failures": self.work.failures,
        }


@dataclass(frozen=True)
class Bound:
    """The most that the cache's hits allow, if nothing but denoising cost time: 1 / [(1 - h) + h·r·(1 - s)].

    Attributes:
        hit_rate: h.
        cost_ratio: r, what an image of the variant that serves hits costs, in images of the large one.
        steps_skipped: s, mean share of a hit's steps that were skipped.
        throughput_ratio: the bound. It is computed image by image, so that it also holds for policies that mix
            variants otherwise than by hits; where they do not, it is the formula.
        reached: the measured ratio over the bound.
    """

    hit_rate: float
    cost_ratio: float
    steps_skipped: float
    throughput_ratio: float | None
    reached: float | None


def bound(accounts: Sequence[Account], small: str, small_cost: float, throughput_ratio: float) -> Bound:
    """Of what a policy served; ``small_cost`` is what an image of the small variant costs."""
    hits = [account for account in accounts if account.hit]
    costs = [_relative_cost(account, small, small_cost) for account in accounts]
    limit = 1 / mean(costs) if any(costs) else None
    return Bound(
        hit_rate=len(hits) / len(accounts),
        cost_ratio=mean(small_cost if hit.variant == small else 1.0 for hit in hits) if hits else 1.0,
        steps_skipped=mean(hit.skipped for hit in hits) if hits else 0.0,
        throughput_ratio=limit,
        reached=None if limit is None else throughput_ratio / limit,
    )


def _relative_cost(account: Account, small: str, small_cost: float) -> float:
    """Of an image, in images of the large variant; denoising alone, that of a first painting included."""
    first = account.escalated_from
    painted = [(account.variant, 1 - account.skipped), *([(first.variant, 1.0)] if first else [])]
    return sum((small_cost if variant == small else 1.0) * share for variant, share in painted)


# Putting it together --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Costs:
    """Of the pair of variants: GFLOP of each, and what the small one costs in time beside the large one."""

    by_variant: Mapping[str, VariantCost]
    small: str
    small_cost: float

    def gflop(self, account: Account) -> float:
        gflop = self.by_variant[account.variant].image(account.steps_run, account.guidance_scale, account.from_image)
        first = account.escalated_from
        if first is None:
            return gflop
        return gflop + self.by_variant[first.variant].image(first.steps_run, account.guidance_scale, False)


@dataclass(frozen=True, eq=False)
class Jury:
    """What was found of the pictures of each policy, and of perfect ones; less where Ctrl-C ended the judging."""

    policies: Mapping[str, Judged]
    renders: Judged | None


def judge_all(contest: Contest, embedder: Embedder | None) -> Jury:
    """Have the pictures of every policy judged, and fresh renders of the same scenes."""
    judged: dict[str, Judged] = {}
    if not contest.images_of(VANILLA):
        return Jury(judged, None)
    try:
        renders = examine(
            fresh_renders([each.item for each in contest.images_of(VANILLA)], seed=0), embedder, "renders"
        )
        for policy in contest.policies:
            if served := contest.images_of(policy):
                judged[policy] = examine(Gallery.of(served), embedder, policy)
    except KeyboardInterrupt:
        contest.cut_short = contest.cut_short or "interrupted while judging"
        return Jury(judged, None)
    return Jury(judged, renders)


def results(contest: Contest, jury: Jury, costs: Costs) -> dict[str, PolicyResult]:
    """By policy, of those that have served at least a whole slice."""
    measured = {each.policy for each in contest.slices}
    return {policy: _result(contest, policy, jury, costs) for policy in contest.policies if policy in measured}


def _result(contest: Contest, policy: str, jury: Jury, costs: Costs) -> PolicyResult:
    served, pace = contest.images_of(policy), speed(contest.slices, policy)
    accounts = [each.account for each in served]
    taken_ms = processor_ms(contest.slices, policy)
    vanilla_ms = sum(processor_ms(contest.slices, VANILLA).values())
    p50, p99 = np.percentile([each.latency_s * 1000 for each in served], [50, 99])
    own, ratios = _beside_vanilla(jury, policy)
    return PolicyResult(
        speed=pace,
        work=_work(contest, policy, costs),
        latency_p50_ms=float(p50),
        latency_p99_ms=float(p99),
        bound=bound(accounts, costs.small, costs.small_cost, pace.ratio),
        processor_ms=taken_ms,
        processor_ratio=sum(taken_ms.values()) / vanilla_ms if vanilla_ms else None,
        quality=own,
        ratios=ratios,
    )


def _work(contest: Contest, policy: str, costs: Costs) -> Work:
    served = contest.images_of(policy)
    accounts = [each.account for each in served]
    hits = [account for account in accounts if account.hit]
    skipped_on_hits = [hit.skipped for hit in hits]
    gflop = mean(costs.gflop(account) for account in accounts)
    indices = {each.item.index for each in served}
    vanilla = [each.account for each in contest.images_of(VANILLA) if each.item.index in indices]
    return Work(
        images=len(accounts),
        failures=sum(failure.policy == policy for failure in contest.failures),
        hit_rate=len(skipped_on_hits) / len(accounts),
        steps_skipped=mean(account.skipped for account in accounts),
        steps_skipped_on_hits=mean(skipped_on_hits) if skipped_on_hits else 0.0,
        gflop_per_image=gflop,
        compute_ratio=gflop / mean(map(costs.gflop, vanilla)),
        stages_ms={
            "hits": _stages_ms(hits),
            "misses": _stages_ms([account for account in accounts if not account.hit]),
        },
        hit_overhead_share=_share_of_time(hits, lambda ms: ms["total"] - ms["queue"] - ms["denoise"]),
        hit_cache_share=_share_of_time(hits, lambda ms: ms["embed"] + ms["lookup"] + ms["fetch"]),
    )


def _stages_ms(accounts: Sequence[Account]) -> dict[str, float]:
    stages = accounts[0].timings_ms if accounts else ()
    return {stage: mean(account.timings_ms[stage] for account in accounts) for stage in stages}


def _share_of_time(hits: Sequence[Account], part_ms: Callable[[Mapping[str, float]], float]) -> float | None:
    """What a part of every hit is of all their time; a cached image that is the answer is denoised not at all."""
    total_ms = sum(hit.timings_ms["total"] for hit in hits)
    return sum(part_ms(hit.timings_ms) for hit in hits) / total_ms if total_ms else None


def _beside_vanilla(jury: Jury, policy: str) -> tuple[Quality | None, QualityRatios | None]:
    """On the requests that both have served."""
    if jury.renders is None or policy not in jury.policies or VANILLA not in jury.policies:
        return None, None
    shared = jury.policies[policy].indices & jury.policies[VANILLA].indices
    if not shared:
        return None, None
    mine, theirs, renders = (
        each.only(shared) for each in (jury.policies[policy], jury.policies[VANILLA], jury.renders)
    )
    return quality(mine, renders), quality_ratios(mine, theirs, renders)
