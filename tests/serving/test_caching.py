"""The cache behind a real server: what is painted once is not painted again, and losing it fails nobody."""

from __future__ import annotations

import threading
import time
import urllib.request
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.http as httpclient

from tests.serving.lora_files import write_lora
from tests.serving.triton_calls import PROMPT, generate, generate_all, post
from underpaint.deployment import Deployment
from underpaint.policies import Calibration, Thresholds
from underpaint.policies.calibration import FILE_NAME

pytestmark = pytest.mark.server

SIMILAR = "a small red circle above a large blue square, on a green background"
STEPS = 8
PATIENCE_S = 120.0
# Everything is similar enough, for what is tested here is not how similar that should be.
ANYTHING = Thresholds.of((-1.0, 0.5))


@pytest.fixture(scope="module")
def calibrated(server: Any, repository: Path) -> Iterator[Any]:
    """The server with thresholds that let everything hit; front doors read them again when they change."""
    doors = [repository / door / "1" for door in ("generate", "generate_stream")]
    deployment = Deployment.load(doors[0])
    weights = [deployment.variant(role).weights for role in (deployment.refiner, deployment.large)]
    tables = {"modm": ANYTHING, "nirvana": ANYTHING, "retrieval": Thresholds.of((0.999, 1.0))}
    calibration = Calibration(deployment.embedder, *weights, alpha=1.0, **tables)
    before = [(door / FILE_NAME, _content(door / FILE_NAME)) for door in doors]
    for door in doors:
        calibration.save(door)
    time.sleep(2.0)  # doors look once a second
    until(lambda: paint(server, tenant="nobody", policy="retrieval", cache="read")[1]["miss"] == "empty")
    yield server
    for path, content in before:
        path.unlink() if content is None else path.write_bytes(content)


def _content(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None


@pytest.fixture
def tenant() -> str:
    """A cache of one's own."""
    return f"test-{uuid.uuid4().hex}"


def paint(server: Any, tenant: str, **fields: Any) -> tuple[np.ndarray, dict[str, Any]]:
    """An image, painted again where a busy machine was too slow to look into the cache."""
    wishes = {"num_inference_steps": STEPS, "seed": 1, **fields}
    end = time.monotonic() + PATIENCE_S
    while True:
        image, outcome = generate(server.grpc_url, parameters={"tenant": tenant}, **wishes)
        if outcome["miss"] != "slow" or time.monotonic() > end:
            return image, outcome


def until(holds: Any) -> None:
    end = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.1)


def paint_first(server: Any, tenant: str, policy: str) -> np.ndarray:
    """The first image of a tenant, once it is remembered."""
    _, outcome = paint(server, tenant, policy=policy, cache="read")
    assert (outcome["start"], outcome["miss"], outcome["source"]) == ("noise", "empty", None)
    image, _ = paint(server, tenant, policy=policy)
    until(lambda: paint(server, tenant, policy=policy, cache="read")[1]["miss"] is None)
    return image


def test_modm_refines_what_was_painted_for_a_similar_prompt(calibrated: Any, tenant: str) -> None:
    paint_first(calibrated, tenant, "modm")
    _, outcome = paint(calibrated, tenant, policy="modm", prompt=SIMILAR, cache="read")
    assert (outcome["start"], outcome["variant"], outcome["generation"]) == ("cached_image", "tiny-m", 1)
    assert (outcome["steps_run"], outcome["steps_skipped"]) == (4, 4)
    assert outcome["source"]["prompt"] == PROMPT
    assert outcome["source"]["skip"] == 4
    assert outcome["source"]["variant"] == "tiny-l"
    assert all(outcome["timings_ms"][stage] > 0 for stage in ("embed", "lookup", "fetch", "denoise"))


def test_nirvana_goes_on_from_the_latents_of_a_similar_prompt(calibrated: Any, tenant: str) -> None:
    first = paint_first(calibrated, tenant, "nirvana")
    _, outcome = paint(calibrated, tenant, policy="nirvana", prompt=SIMILAR, cache="read")
    assert (outcome["start"], outcome["variant"], outcome["generation"]) == ("cached_latents", "tiny-l", 1)
    assert (outcome["steps_run"], outcome["steps_skipped"]) == (4, 4)
    assert outcome["source"]["prompt"] == PROMPT
    same, again = paint(calibrated, tenant, policy="nirvana")
    assert again["steps_skipped"] == 4
    # The same prompt from its own latents ends where it ended; only their storage may cost a little.
    assert np.abs(same.astype(int) - first.astype(int)).mean() < 2


def test_retrieval_gives_the_very_same_image(calibrated: Any, tenant: str) -> None:
    first = paint_first(calibrated, tenant, "retrieval")
    again, outcome = paint(calibrated, tenant, policy="retrieval", seed=99)
    assert (outcome["start"], outcome["steps_run"], outcome["source"]["seed"]) == ("finished", 0, 1)
    np.testing.assert_array_equal(again, first)
    _, other = paint(calibrated, tenant, policy="retrieval", prompt=SIMILAR)
    assert (other["start"], other["miss"]) == ("noise", "declined")


def test_what_a_lora_painted_is_not_for_the_file_that_replaces_it(
    calibrated: Any, repository: Path, tenant: str
) -> None:
    store = repository.parent / "addons" / "lora"
    styled = {"policy": "retrieval", "lora": "styled", "cache": "read"}
    write_lora(store, repository, "styled", seed=30, variant="tiny-l")
    paint(calibrated, tenant, **{**styled, "cache": "readwrite"})
    until(lambda: paint(calibrated, tenant, **styled)[1]["start"] == "finished")
    write_lora(store, repository, "styled", seed=31, variant="tiny-l")
    _, outcome = paint(calibrated, tenant, **styled)
    assert (outcome["start"], outcome["miss"]) == ("noise", "empty")


def test_where_the_refiner_cannot_have_a_lora_the_large_variant_paints(
    calibrated: Any, repository: Path, tenant: str
) -> None:
    write_lora(repository.parent / "addons" / "lora", repository, "large-only", seed=32, variant="tiny-l")
    styled = {"policy": "modm", "lora": "large-only", "on_missing_lora": "without"}
    paint(calibrated, tenant, **styled)
    until(lambda: paint(calibrated, tenant, cache="read", **styled)[1]["miss"] == "unfit")
    _, outcome = paint(calibrated, tenant, cache="read", **styled)
    assert (outcome["variant"], outcome["start"], outcome["warnings"]) == ("tiny-l", "noise", [])
    assert [use["joined_at"] for use in outcome["loras"]] == [0]


@pytest.mark.parametrize("policy", ["modm", "nirvana", "retrieval"])
def test_in_reproducible_mode_the_cache_changes_nothing(calibrated: Any, tenant: str, policy: str) -> None:
    paint_first(calibrated, tenant, policy)
    image, outcome = paint(calibrated, tenant, policy=policy, seed=5, cache="reproducible")
    plain, _ = paint(calibrated, tenant, policy="vanilla", seed=5)
    assert (outcome["start"], outcome["miss"]) == ("noise", "off")
    np.testing.assert_array_equal(image, plain)


def test_nothing_is_shared_between_tenants(calibrated: Any, tenant: str) -> None:
    paint_first(calibrated, tenant, "modm")
    for policy in ("modm", "nirvana", "retrieval"):
        _, outcome = paint(calibrated, f"{tenant[:40]}-other", policy=policy, cache="read")
        assert outcome["miss"] == "empty"


@pytest.mark.parametrize("field", [{"cache": "sometimes"}, {"tenant": "a/b"}, {"tenant": ""}])
def test_what_cannot_be_asked_of_a_cache_is_refused(server: Any, field: dict[str, str]) -> None:
    status, answer = post(server.http_url, {"prompt": PROMPT, **field})
    assert status == 400
    assert next(iter(field)) in answer["error"]


def test_hits_and_misses_are_counted(calibrated: Any, tenant: str) -> None:
    paint_first(calibrated, tenant, "modm")

    def counted() -> bool:
        with urllib.request.urlopen(calibrated.metrics_url) as response:
            text = response.read().decode()
        return 'underpaint_door_hits_total{model="generate",policy="modm",skipped="' in text

    until(counted)


def test_with_the_cache_unloaded_under_load_nobody_fails(calibrated: Any, tenant: str) -> None:
    paint_first(calibrated, tenant, "modm")
    control = httpclient.InferenceServerClient(
        calibrated.http_url.removeprefix("http://"), connection_timeout=120, network_timeout=120
    )
    seen: list[tuple[str, str | None]] = []
    answered: Counter[int] = Counter()
    failures: list[Exception] = []
    stop = threading.Event()

    def caller(seed: int) -> None:
        while not stop.is_set():
            try:
                policy = ("modm", "nirvana")[seed % 2]
                _, outcome = paint(calibrated, tenant, policy=policy, seed=seed)
                seen.append((outcome["start"], outcome["miss"]))
                answered[seed] += 1
            except Exception as error:
                failures.append(error)

    def until_seen(more: int) -> Counter[tuple[str, str | None]]:
        start = len(seen)
        until(lambda: failures or len(seen) >= start + more)
        return Counter(seen[start:])

    callers = [threading.Thread(target=caller, args=(seed,)) for seed in range(4)]
    try:
        for thread in callers:
            thread.start()
        until_seen(4)
        control.unload_model("cache")
        before = Counter(answered)
        until(lambda: failures or all(answered[seed] > before[seed] for seed in range(4)))  # some were under way
        without = until_seen(8)
        control.load_model("cache")
        until(lambda: failures or ("cached_image", None) in until_seen(2))
    finally:
        stop.set()
        for thread in callers:
            thread.join(PATIENCE_S)
        control.load_model("cache")
    assert failures == []
    assert {start for start, _ in without} == {"noise"}
    assert {miss for _, miss in without} <= {"unavailable", "slow", "predicted"}


def test_many_at_once_find_what_one_has_painted(calibrated: Any, tenant: str) -> None:
    paint_first(calibrated, tenant, "modm")
    wishes = {"policy": "modm", "num_inference_steps": STEPS, "parameters": {"tenant": tenant}, "cache": "read"}
    replies = generate_all(calibrated.grpc_url, [{"seed": seed, **wishes} for seed in range(8)])
    assert Counter(outcome["start"] for _, outcome in replies)["cached_image"] >= 6  # slow lookups are misses
