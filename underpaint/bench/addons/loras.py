"""``underpaint bench loras``: many LoRAs, few of them in memory, asked for as production asks for them.

Popularity follows Zipf's law, p(k) ~ 1/k: of 200, the ten most wanted are half of what is asked for, as with service B
of the published traces (SwiftDiffusion, arXiv:2407.02031, section 2: a cache of ten still loads 0.54 a request); how
many LoRAs a request has is that service's too. Requests come ``at_once`` at a time. Reported: how many joined at step 0
and how many later, for how long requests were held until a LoRA had come, what the denoiser's store did, and failures.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from underpaint.bench.demand.load import work_off
from underpaint.errors import UnderpaintError

ZIPF = 1.0
HAVE_LORAS = (0.072, 0.736, 0.192)  # the share of requests with none, one and two
RANKS = (4, 8, 16)
_HELD_FROM_MS = 0.5  # from then on a request was held


@dataclass(frozen=True)
class Answer:
    """What a reply says of its LoRAs: before which step each joined (None: never), and milliseconds."""

    joined_at: tuple[int | None, ...]
    held_ms: float
    total_ms: float


Paint = Callable[[int, Sequence[str]], Answer]  # a running number and the LoRAs; raises UnderpaintError


@dataclass(frozen=True)
class Trial:
    """All answers, in the order of the requests; ``failures``: what was said of those that failed."""

    answers: tuple[Answer, ...]
    failures: tuple[str, ...]
    requests_per_s: float


def wishes(names: Sequence[str], requests: int, seed: int = 0) -> list[tuple[str, ...]]:
    """The LoRAs of each request, the first names the most popular."""
    draw = np.random.default_rng(seed)
    popularity = 1 / np.arange(1, len(names) + 1) ** ZIPF
    counts = draw.choice(len(HAVE_LORAS), size=requests, p=HAVE_LORAS)
    chosen = (draw.choice(len(names), size=count, replace=False, p=popularity / popularity.sum()) for count in counts)
    return [tuple(names[place] for place in places) for places in chosen]


def run(paint: Paint, wanted: Sequence[Sequence[str]], at_once: int, tell: Callable[[str], None]) -> Trial:
    """Make every request, ``at_once`` at a time; one that fails is counted and ends nothing."""
    answers: dict[int, Answer] = {}
    failures: list[str] = []

    def work(number: int) -> None:
        try:
            answers[number] = paint(number, wanted[number])
        except UnderpaintError as error:
            failures.append(f"{', '.join(wanted[number])}: {error}")
        done = len(answers) + len(failures)
        if done % 100 == 0:
            tell(f"{done} of {len(wanted)} requests, {len(failures)} failed")

    cycles = work_off(work, len(wanted), at_once)
    seconds = max(cycle.end_s for cycle in cycles) - min(cycle.start_s for cycle in cycles)
    return Trial(tuple(answers[number] for number in sorted(answers)), tuple(failures), len(wanted) / seconds)


def to_json(trial: Trial) -> dict[str, Any]:
    """Requests by when their last LoRA joined; those that were held, and for how long."""
    adapted = [answer for answer in trial.answers if answer.joined_at]
    late = [answer for answer in adapted if max(step or 0 for step in answer.joined_at) > 0]
    at_once = [answer for answer in adapted if all(step == 0 for step in answer.joined_at)]
    held = [answer.held_ms for answer in trial.answers if answer.held_ms >= _HELD_FROM_MS]
    kinds = {
        "without_loras": [answer for answer in trial.answers if not answer.joined_at],
        "joined_at_0": at_once,
        "joined_late": late,
    }
    return {
        "requests": len(trial.answers) + len(trial.failures),
        "failures": len(trial.failures),
        "failed": list(trial.failures[:10]),
        "requests_per_s": trial.requests_per_s,
        "never_joined": sum(None in answer.joined_at for answer in adapted),
        **{
            name: {"requests": len(own), "latency_ms": percentiles([answer.total_ms for answer in own])}
            for name, own in kinds.items()
        },
        "held": {"requests": len(held), "ms": percentiles(held)},
    }


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """Empty where there is nothing to be said."""
    if not values:
        return {}
    marks = {"p50": 50, "p90": 90, "p99": 99, "max": 100}
    return {name: round(float(np.percentile(values, mark)), 2) for name, mark in marks.items()}
