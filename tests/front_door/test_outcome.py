"""What a caller is told beside the image."""

from __future__ import annotations

import json

import numpy as np

from underpaint.front_door.outcome import First, Outcome, Source, Timings
from underpaint.images import read_metadata, to_png
from underpaint.requests import GenerateRequest

OUTCOME = Outcome(
    request_id="mine",
    prompt="größer 赤",
    negative_prompt="",
    policy="vanilla",
    variant="tiny-l",
    start="noise",
    seed=2**63 - 1,
    scheduler="ddim",
    num_inference_steps=25,
    steps_run=25,
    steps_skipped=0,
    guidance_scale=3.0,
    width=64,
    height=64,
    timings_ms=Timings(1.0, 2.0, 3.0, 4.0, 5.0, 15.75, embed=0.5, lookup=0.25),
    warnings=("prompt: 30 tokens",),
    source=Source(7, 0.75, 10, "a disc", "tiny-s", 3),
    generation=1,
    router_score=0.25,
    confidence=0.125,
    escalated=True,
    escalated_from=First("tiny-s", 4, 4),
)


def test_the_report_is_readable_json() -> None:
    text = OUTCOME.to_json()
    assert "größer 赤" in text
    raw = json.loads(text)
    assert raw["timings_ms"] == {
        "admission": 1.0,
        "encode": 2.0,
        "queue": 3.0,
        "denoise": 4.0,
        "decode": 5.0,
        "total": 15.75,
        "embed": 0.5,
        "lookup": 0.25,
        "fetch": 0.0,
        "awaited": 0.0,
        "route": 0.0,
        "judge": 0.0,
        "other": 0.0,
        "held": 0.0,
    }
    assert raw["source"]["similarity"] == 0.75
    assert raw["warnings"] == ["prompt: 30 tokens"]
    assert raw["seed"] == 2**63 - 1


def test_a_picture_says_enough_to_be_painted_again() -> None:
    metadata = read_metadata(to_png(np.zeros((2, 2, 3), np.uint8), OUTCOME.metadata()))
    assert "timings_ms" not in metadata
    assert "warnings" not in metadata
    names = ["prompt", "negative_prompt", "seed", "num_inference_steps", "guidance_scale", "scheduler", "variant"]
    again = GenerateRequest.parse({name: metadata[name] for name in [*names, "policy", "width", "height"]})
    assert (again.prompt, again.seed, again.variant) == (OUTCOME.prompt, OUTCOME.seed, OUTCOME.variant)


def test_a_report_comes_back_from_its_json() -> None:
    assert Outcome.from_json(OUTCOME.to_json()) == OUTCOME
    assert Outcome.from_json(OUTCOME.to_json().encode()) == OUTCOME


def test_a_report_of_an_older_server_is_read_too() -> None:
    raw = json.loads(OUTCOME.to_json())
    for name in (
        "source",
        "miss",
        "generation",
        "router_score",
        "confidence",
        "escalated",
        "escalated_from",
        "fallback",
    ):
        del raw[name]
    for name in ("embed", "lookup", "fetch", "route", "judge", "other"):
        del raw["timings_ms"][name]
    outcome = Outcome.from_json(json.dumps(raw))
    assert (outcome.source, outcome.miss, outcome.generation, outcome.timings_ms.lookup) == (None, None, 0, 0.0)
    assert (outcome.escalated, outcome.escalated_from, outcome.fallback) == (False, None, None)


def test_a_report_of_a_newer_server_is_read_too() -> None:
    raw = json.loads(OUTCOME.to_json())
    raw["score"] = 0.9
    raw["timings_ms"]["varnish"] = 0.1
    raw["source"]["distance"] = 0.1
    raw["escalated_from"]["gloss"] = 0.1
    assert Outcome.from_json(json.dumps(raw)) == OUTCOME
