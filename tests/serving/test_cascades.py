"""Cascades behind a real server: router and discriminator are asked live, and settings decide at once."""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from tokenizers import Tokenizer

from tests.serving.triton_calls import PROMPT, generate, generate_all
from underpaint.deployment import Deployment
from underpaint.policies import Settings

pytestmark = pytest.mark.server

SETTINGS = "settings.json"
PATIENCE_S = 120.0
Decide = Callable[..., None]


@pytest.fixture(scope="module")
def decide(server: Any, repository: Path) -> Iterator[Decide]:
    """Write settings, and wait until the front door goes by them."""
    path = repository / "generate" / "1" / SETTINGS

    def decided(**settings: float) -> None:
        path.write_text(json.dumps(settings))
        time.sleep(5.0)  # doors look once a second

    yield decided
    path.unlink(missing_ok=True)
    time.sleep(3.0)


def paint(server: Any, policy: str, seed: int = 1, **fields: Any) -> tuple[np.ndarray, dict[str, Any]]:
    return generate(server.grpc_url, policy=policy, seed=seed, cache="off", **fields)


def until(ask: Callable[[], Any], holds: Callable[[Any], bool]) -> Any:
    end = time.monotonic() + PATIENCE_S
    while not holds(answer := ask()):
        assert time.monotonic() < end, f"it never came true: {answer}"
        time.sleep(0.2)
    return answer


@pytest.mark.parametrize("policy", ["diffserve", "hadis"])
def test_the_score_is_the_discriminator_s_of_the_served_image(
    server: Any, repository: Path, decide: Decide, policy: str
) -> None:
    decide(confidence_threshold=0.0, router_threshold=1.0)
    image, outcome = until(
        lambda: paint(server, policy), lambda answer: answer[1]["confidence"] is not None and answer[1]["seed"] == 1
    )
    assert (outcome["variant"], outcome["escalated"], outcome["fallback"]) == ("tiny-s", False, None)
    tokenizer = Tokenizer.from_file(str(repository / "tiny_tokenizer" / "1" / "tokenizer.json"))
    inputs = {"input_ids": np.array([tokenizer.encode(PROMPT).ids], np.int32)}
    scored = {
        "router": scores(repository, "router", inputs),
        "discriminator": scores(repository, "discriminator", {**inputs, "image": image[None]}),
    }
    assert outcome["confidence"] == pytest.approx(scored["discriminator"], abs=1e-4)
    if policy == "hadis":
        assert outcome["router_score"] == pytest.approx(scored["router"], abs=1e-4)


def scores(repository: Path, model: str, inputs: dict[str, np.ndarray]) -> float:
    graph = str(repository / model / "1" / "model.onnx")
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    return float(session.run(["score"], inputs)[0].item())


def test_what_is_not_good_enough_is_painted_again(server: Any, decide: Decide) -> None:
    decide(defer_share=1.0, hard_share=0.0)
    again, outcome = until(lambda: paint(server, "diffserve"), lambda answer: answer[1]["escalated"])
    assert outcome["variant"] == "tiny-l"
    assert outcome["escalated_from"]["variant"] == "tiny-s"
    assert outcome["escalated_from"]["steps_run"] > 0
    assert outcome["timings_ms"]["other"] > 0
    vanilla, _ = paint(server, "vanilla")
    assert np.abs(again.astype(int) - vanilla).max() <= 2  # the same noise, so the same image


def test_a_hard_prompt_goes_to_the_large_variant_at_once(server: Any, decide: Decide) -> None:
    decide(hard_share=1.0)
    _, outcome = until(lambda: paint(server, "hadis"), lambda answer: answer[1]["variant"] == "tiny-l")
    assert outcome["escalated_from"] is None
    assert outcome["confidence"] is None
    assert 0 < outcome["router_score"] < 1


def test_a_named_variant_is_painted_without_a_cascade(server: Any, decide: Decide) -> None:
    decide(defer_share=1.0, hard_share=1.0)
    _, outcome = paint(server, "hadis", variant="tiny-s")
    assert (outcome["variant"], outcome["router_score"], outcome["confidence"]) == ("tiny-s", None, None)


def test_shares_are_deferred_by_the_deployment_s_quantiles_and_counted(
    server: Any, repository: Path, decide: Decide
) -> None:
    decide(defer_share=0.5, hard_share=0.0)
    deployment = Deployment.load(repository / "generate" / "1")
    cutoff = Settings.of(deployment, defer_share=0.5).confidence_cutoff
    captions = [
        f"a {size} {colour} {shape} in the centre, on a white background"
        for size in ("small", "large")
        for colour in ("red", "blue", "green", "cyan")
        for shape in ("star", "heart", "circle")
    ]
    requests = [{"prompt": text, "policy": "diffserve", "seed": i, "cache": "off"} for i, text in enumerate(captions)]
    outcomes = [outcome for _, outcome in generate_all(server.grpc_url, requests)]
    judged = [outcome for outcome in outcomes if outcome["confidence"] is not None]
    assert len(judged) >= len(outcomes) // 2  # on a busy machine some scores may come too late
    for outcome in judged:
        assert outcome["escalated"] == (outcome["variant"] == "tiny-l") == (outcome["confidence"] < cutoff)
    until(lambda: scores_counted(server), lambda lines: any('le="+Inf"' in line for line in lines))


def scores_counted(server: Any) -> list[str]:
    with urllib.request.urlopen(server.metrics_url, timeout=10) as response:
        lines = response.read().decode().splitlines()
    return [line for line in lines if line.startswith("underpaint_door_scores_total{") and "confidence" in line]
