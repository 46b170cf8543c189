"""The end of a request: what its caller is told, and what is remembered of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from underpaint.deployment import Deployment
from underpaint.evidence import Absence, Evidence, Miss, Reuse
from underpaint.front_door.cache_client import Entry
from underpaint.front_door.cascade import Cascade
from underpaint.front_door.memory import Keepsake
from underpaint.front_door.outcome import ControlNetUse, First, LoraUse, Outcome, Source, Timings
from underpaint.front_door.pipelines import Job, Painting
from underpaint.front_door.registry import Visit
from underpaint.front_door.scopes import scope_of
from underpaint.front_door.shadow import Hit
from underpaint.front_door.traffic import Release
from underpaint.front_door.trial import Exhibit
from underpaint.policies import Finished, Noise, Policy
from underpaint.policies.admission import Downgrade


@dataclass(frozen=True, eq=False)
class Reply:
    """An image, uint8 [H, W, 3], its report, and what the door should do with it once it has been sent."""

    image: np.ndarray
    outcome: Outcome
    keepsake: Keepsake | None = None
    exhibit: Exhibit | None = None
    hit: Hit | None = None


def reply_to(
    visit: Visit,
    policy: Policy,
    evidence: Evidence,
    job: Job,
    painting: Painting,
    release: Release,
    cascade: Cascade,
    downgrade: Downgrade | None,
) -> Reply:
    """Everything that happened to a request, in one place."""
    sampling, start, deployment = job.sampling, job.plan.start, release.deployment
    steps_skipped = sampling.num_inference_steps - painting.steps_run
    absence, loras = _absence(policy, evidence, job), _loras(job, painting)
    outcome = Outcome(
        request_id=visit.request_id,
        prompt=job.request.prompt,
        negative_prompt=job.request.negative_prompt,
        policy=policy.name,
        variant=job.plan.variant,
        start=start.name,
        seed=sampling.seed,
        scheduler=sampling.scheduler,
        num_inference_steps=sampling.num_inference_steps,
        steps_run=painting.steps_run,
        steps_skipped=steps_skipped,
        guidance_scale=sampling.guidance_scale,
        width=sampling.width,
        height=sampling.height,
        timings_ms=_timings(painting, visit, cascade),
        warnings=(*_cut_off(job, painting, deployment), *_not_helped(absence), *_gone_without(loras)),
        source=_source(job, steps_skipped),
        miss=absence.why if absence else None,
        generation=_generation(job),
        router_score=_rounded(evidence.router_score),
        confidence=_rounded(cascade.confidence),
        escalated=cascade.escalated,
        escalated_from=_first(*cascade.first) if cascade.first and cascade.escalated else None,
        fallback=cascade.fallback,
        downgrade=downgrade,
        loras=loras,
        controlnets=_controlnets(job, painting),
        version=deployment.version,
    )
    missing = _missing(loras)  # what lacks one is not what its scope says
    keepsake = _keepsake(outcome, evidence, job, painting, release) if job.keep and not missing else None
    hit = Hit(job.request, policy.name, painting.image) if outcome.source else None
    return Reply(painting.image, outcome, keepsake, hit=hit)


def _keepsake(outcome: Outcome, evidence: Evidence, job: Job, painting: Painting, release: Release) -> Keepsake:
    deployment, settings = release.deployment, release.settings
    scopes = scopes_of(job, evidence, deployment)
    entry = Entry(
        prompt=outcome.prompt,
        tenant=job.request.tenant,
        variant=outcome.variant,
        seed=outcome.seed,
        num_inference_steps=outcome.num_inference_steps,
        image_scope=scopes[Reuse.IMAGE],
        latents_scope=scopes.get(Reuse.LATENTS),
        autoencoder=deployment.variant(job.plan.variant).autoencoder,
        generation=outcome.generation,
        source=outcome.source.entry_id if outcome.source else None,
        metadata=outcome.metadata(),
    )
    judged = deployment.discriminator is not None and not evidence.add_ons  # of styles it knows nothing
    return Keepsake(
        entry,
        painting.image,
        evidence.embedding,
        painting.captured,
        outcome.request_id,
        least_confidence=settings.least_confidence if judged else 0.0,
    )


def scopes_of(job: Job, evidence: Evidence, deployment: Deployment) -> dict[Reuse, str]:
    """Where what is kept of a job will be found."""
    reused = [Reuse.IMAGE, *([Reuse.LATENTS] if job.capture_steps else [])]
    what = (deployment, job.plan.variant, job.request, job.sampling, evidence.add_ons)
    return {reuse: scope_of(reuse, *what) for reuse in reused}


def _source(job: Job, steps_skipped: int) -> Source | None:
    start = job.plan.start
    if isinstance(start, Noise):
        return None
    entry = start.entry
    return Source(entry.entry_id, entry.similarity, steps_skipped, entry.prompt, entry.variant, entry.seed)


def _generation(job: Job) -> int:
    start = job.plan.start
    if isinstance(start, Noise):
        return 0
    return start.entry.generation + (0 if isinstance(start, Finished) else 1)


def _absence(policy: Policy, evidence: Evidence, job: Job) -> Absence | None:
    """Why the cache was of no help, where it could have been."""
    start = job.plan.start
    if policy.needs.matches is None or not isinstance(start, Noise):
        return None
    return Absence(Miss.EASY) if start.easy else evidence.absence or Absence(Miss.DECLINED)


def _not_helped(absence: Absence | None) -> tuple[str, ...]:
    return (f"cache: {absence.detail}; painted from noise",) if absence and absence.detail else ()


def _loras(job: Job, painting: Painting) -> tuple[LoraUse, ...]:
    """Those that were asked for; the entry of a finished image was painted with the same."""
    steps = painting.lora_steps or (0,) * len(job.request.loras)
    pairs = zip(job.request.loras, steps, strict=True)
    return tuple(LoraUse(wish.name, wish.scale, step if step >= 0 else None) for wish, step in pairs)


def _controlnets(job: Job, painting: Painting) -> tuple[ControlNetUse, ...]:
    """What of them there was; a finished image was painted with all of them before."""
    wishes = job.request.controlnets
    steps = painting.controlnet_steps or (0,) * len(wishes)
    return tuple(ControlNetUse(wish.name, wish.scale, count) for wish, count in zip(wishes, steps, strict=True))


def _missing(loras: tuple[LoraUse, ...]) -> list[str]:
    return [use.name for use in loras if use.joined_at is None]


def _gone_without(loras: tuple[LoraUse, ...]) -> tuple[str, ...]:
    missing = _missing(loras)
    return (f"lora: {', '.join(missing)} could not be had; painted without",) if missing else ()


def _cut_off(job: Job, painting: Painting, deployment: Deployment) -> tuple[str, ...]:
    limit = deployment.variant(job.plan.variant).prompt_tokens
    counts = zip(("prompt", "negative_prompt"), painting.prompt_tokens, strict=True)
    return tuple(
        f"{name}: {count} tokens, of which {job.plan.variant} reads the first {limit}"
        for name, count in counts
        if count > limit
    )


def _first(job: Job, painting: Painting) -> First:
    return First(job.plan.variant, job.sampling.num_inference_steps, painting.steps_run)


def _rounded(score: float | None) -> float | None:
    return None if score is None else round(score, 6)


def _timings(painting: Painting, visit: Visit, cascade: Cascade) -> Timings:
    def ms(duration_ns: int) -> float:
        return round(duration_ns / 1e6, 3)

    spent = visit.spent_ns
    # Of a painting that is given after all, whatever was thought and tried of it came later.
    later_ns = 0 if cascade.escalated else spent["judge"] + spent["other"]
    return Timings(
        embed=ms(spent["embed"]),
        lookup=ms(spent["lookup"]),
        fetch=ms(spent["fetch"]),
        awaited=ms(spent["awaited"]),
        route=ms(spent["route"]),
        judge=ms(spent["judge"]),
        other=ms(spent["other"]),
        admission=ms(painting.called_ns - visit.arrived_ns - (spent.total() - later_ns)),
        encode=ms(painting.arrived_ns - painting.called_ns),
        queue=ms(painting.started_ns - painting.arrived_ns),
        held=ms(painting.held_ns),
        denoise=ms(painting.finished_ns - painting.started_ns),
        decode=ms(painting.painted_ns - painting.finished_ns),
        total=ms(painting.painted_ns - visit.arrived_ns + later_ns),
    )
