"""Admission: whether a plan can keep its promise, what could keep it instead, and who is told to come back later.

Work that cannot be done in time is downgraded first, refused last. A request without ``slo_ms`` was promised nothing
and is let in as it is, unless a cascade is to decide who paints and the settings have a promise for all: then it is
done with less rather than late, but never refused. One that wants to be reproducible is not downgraded, since the load
must not decide its image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from enum import StrEnum

from underpaint.errors import Overloaded
from underpaint.evidence import Evidence, Match, Space
from underpaint.policies.plan import Finished, Noise, Plan, Policy, Settings
from underpaint.requests import GenerateRequest

_LEAST_STEPS = 2
# Whoever comes meanwhile takes a share of the machine, and more of them come while there is much to do: what has been
# let in holds up a painting by more than its own work. Of a trace that peaks at 1.5 times what the large variant
# sustains, cascades that take the backlog once are late with 7 to 8% of the requests, that take it three times with
# 0.5%, at 1.5 to 2 points less of accuracy (simulated, four times the large variant's latency promised).
_COMPANY = 3.0


class Downgrade(StrEnum):
    """How a plan was made cheaper, so that its promise can be kept."""

    CACHED = "cached"  # a stored image that is similar enough is the answer
    VARIANT = "variant"  # the small variant paints, and nobody asks whether it is good enough
    STEPS = "steps"  # the same with half of its steps


@dataclass(frozen=True)
class Room:
    """What is known of the load.

    Attributes:
        backlog_s: of work that has been let in already.
        waited_s: since the request came.
        work_s: of a variant's steps, in seconds with the machine to itself.
    """

    backlog_s: float
    waited_s: float
    work_s: Callable[[str, int], float]


@dataclass(frozen=True)
class Admitted:
    """``request``: as it is to be carried out, with fewer steps where these were downgraded."""

    plan: Plan
    request: GenerateRequest
    downgrade: Downgrade | None = None


# Of its promise, how much of the way a request may be kept waiting: the first to give way leave room for the others.
_SHARES = {"best_effort": 0.5, "standard": 1.0, "premium": 1.0}


def admit(
    policy: Policy, plan: Plan, request: GenerateRequest, evidence: Evidence, settings: Settings, room: Room
) -> Admitted:
    """The plan of ``policy``, or the best that can be done in time.

    Raises:
        Overloaded: nothing can, and the request is not of the class that is rather late than refused.
    """
    slo_ms = request.slo_ms or (settings.slo_ms if policy.judges else None)
    if slo_ms is None:
        return Admitted(plan, request)
    limit_s = _SHARES[request.service_class] * slo_ms / 1e3
    asked = Admitted(plan, request)
    choices = [asked] if request.reproducible else [asked, *_cheaper(policy, plan, request, evidence, settings)]
    for choice in choices:
        wary = policy.judges and choice is asked and len(choices) > 1
        backlog_s = held_up_s(room.backlog_s) if wary else room.backlog_s
        if room.waited_s + backlog_s + _work_s(choice, settings, room) <= limit_s:
            return choice
    if request.service_class == "premium" or request.slo_ms is None:
        return choices[-1]
    least_s = room.waited_s + min(_work_s(choice, settings, room) for choice in choices)
    raise Overloaded.of(request.slo_ms, room.backlog_s, retry_after_s=max(0.1, room.backlog_s + least_s - limit_s))


def held_up_s(backlog_s: float) -> float:
    """By how much what was let in before holds up what a cascade could do without."""
    return _COMPANY * backlog_s


def _cheaper(
    policy: Policy, plan: Plan, request: GenerateRequest, evidence: Evidence, settings: Settings
) -> Iterator[Admitted]:
    """From the least of a sacrifice to the greatest. What the caller insists on is not touched."""
    if isinstance(plan.start, Finished):
        return
    if request.variant is not None:
        return
    if evidence.best is not None and _as_good_as_new(policy, evidence.best, settings):
        yield Admitted(replace(plan, start=Finished(evidence.best), then=None), request, Downgrade.CACHED)
    small = plan if plan.variant == settings.small and plan.then is None else Plan(settings.small, Noise())
    if small != plan:
        yield Admitted(small, request, Downgrade.VARIANT)
    half = settings.steps(request, settings.small) // 2
    if isinstance(small.start, Noise) and request.num_inference_steps is None and half >= _LEAST_STEPS:
        yield Admitted(small, replace(request, num_inference_steps=half), Downgrade.STEPS)


def _as_good_as_new(policy: Policy, match: Match, settings: Settings) -> bool:
    """Only where prompts were compared with prompts: that is what was calibrated for images handed out as they are."""
    query = policy.needs.matches
    if query is None or query.space is not Space.TEXT or settings.calibration is None:
        return False
    return settings.calibration.retrieval.skip(match.similarity) > 0


def _work_s(choice: Admitted, settings: Settings, room: Room) -> float:
    """Of what is sure to be done; a second painting is decided when its time has come."""
    if isinstance(choice.plan.start, Finished):
        return 0.0
    return room.work_s(choice.plan.variant, settings.to_run(choice.request, choice.plan))
