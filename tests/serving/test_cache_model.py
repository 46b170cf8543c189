"""The model ``cache`` as other models call it: its contract, its errors, and what becomes of it when things fail."""

from __future__ import annotations

import json
import os
import re
import signal
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as grpcclient
from tritonclient.utils import InferenceServerException

from tests.cache.making import entry, image_scope, latents_scope, unit
from tests.conftest import REPOSITORY
from underpaint.cache.entries import NewEntry

pytestmark = pytest.mark.server

DESCRIBED = (
    "prompt",
    "tenant",
    "variant",
    "seed",
    "image_scope",
    "latents_scope",
    "num_inference_steps",
    "generation",
    "source",
    "metadata",
    "autoencoder",
)
DTYPES = {"object": "BYTES", "float32": "FP32", "uint8": "UINT8", "int32": "INT32", "int64": "INT64"}


def call(server: Any, op: str, **tensors: Any) -> dict[str, np.ndarray]:
    """One request to the cache; texts and integers are made tensors of."""
    inputs = []
    for name, value in {"op": op, **tensors}.items():
        array = np.array([value.encode()], np.object_) if isinstance(value, str) else np.asarray(value)
        inputs.append(grpcclient.InferInput(name, list(array.shape), DTYPES[str(array.dtype)]))
        inputs[-1].set_data_from_numpy(array)
    with grpcclient.InferenceServerClient(server.grpc_url) as client:
        result = client.infer("cache", inputs, client_timeout=60.0)
        return {each.name: result.as_numpy(each.name) for each in result.get_response().outputs}


def insert(server: Any, new: NewEntry, **changes: Any) -> int:
    (entry_id,) = insert_all(server, [new], **changes)
    return entry_id


def insert_all(server: Any, new: Sequence[NewEntry], **changes: Any) -> list[int]:
    tensors: dict[str, Any] = {
        "entry": np.array([described(each).encode() for each in new], np.object_),
        "images": np.stack([each.image for each in new]),
        "image_embeddings": np.stack([each.image_embedding for each in new]),
        "text_embeddings": np.stack([each.text_embedding for each in new]),
    }
    latents = [each.latents[step] for each in new for step in each.steps]
    if latents:
        tensors |= {
            "latents": np.stack(latents),
            "latents_steps": np.array([step for each in new for step in each.steps], np.int32),
            "latents_counts": np.array([len(each.steps) for each in new], np.int32),
        }
    return call(server, "insert", **{**tensors, **changes})["entry_id"].tolist()


def described(new: NewEntry, **changes: Any) -> str:
    return json.dumps({name: getattr(new, name) for name in DESCRIBED} | changes)


def lookup(server: Any, space: str, scope: str, embedding: np.ndarray, **tensors: Any) -> list[dict[str, Any]]:
    outputs = call(server, "lookup", space=space, scope=scope, embedding=embedding, **tensors)
    assert outputs["matches"].shape == (1,)
    return json.loads(outputs["matches"].item())


def fetch(server: Any, entry_id: int, step: int | None = None) -> dict[str, np.ndarray]:
    which = {} if step is None else {"step": np.array([step], np.int32)}
    return call(server, "fetch", entry_id=np.array([entry_id]), **which)


def eventually(check: Callable[[], bool], timeout_s: float = 90.0) -> bool:
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        try:
            if check():
                return True
        except InferenceServerException:
            pass  # that is what is being waited for the end of
        time.sleep(0.2)
    return False


# The contract -------------------------------------------------------------------------------------------------------


def test_what_is_put_in_is_found_in_both_spaces_and_comes_back_unharmed(server: Any) -> None:
    new = entry(1, "contract", generation=2, source=7)
    entry_id = insert(server, new)
    (match,) = lookup(server, "text", new.latents_scope, new.text_embedding)
    assert match.pop("similarity") == pytest.approx(1.0, abs=1e-5)
    assert match == {
        "entry_id": entry_id,
        "prompt": "prompt 1",
        "variant": "tiny-l",
        "seed": 1,
        "generation": 2,
        "steps": [5, 10, 15],
        "num_inference_steps": 50,
    }
    assert lookup(server, "image", new.image_scope, new.image_embedding)[0]["entry_id"] == entry_id
    assert lookup(server, "text", new.image_scope, new.text_embedding)[0]["entry_id"] == entry_id
    assert np.array_equal(fetch(server, entry_id)["image"], new.image)
    for step in new.steps:
        latents = fetch(server, entry_id, step)["latents"]
        assert latents.dtype == np.float32
        assert np.array_equal(latents, new.latents[step])


def test_the_best_come_first_and_generations_can_be_left_out(server: Any) -> None:
    new = [entry(number, "ranking", generation=number % 3) for number in range(30)]
    ids = [insert(server, each) for each in new]
    wanted = new[4].image_embedding
    cosines = {ids[n]: float(each.image_embedding @ wanted) for n, each in enumerate(new) if each.generation <= 1}
    matches = lookup(
        server,
        "image",
        new[0].image_scope,
        wanted,
        top_k=np.array([5], np.int32),
        max_generation=np.array([1], np.int32),
    )
    assert [m["entry_id"] for m in matches] == sorted(cosines, key=lambda each: -cosines[each])[:5]
    assert [m["similarity"] for m in matches] == pytest.approx([cosines[m["entry_id"]] for m in matches], abs=1e-5)


def test_several_go_in_at_once(server: Any) -> None:
    new = [entry(20, "several"), entry(21, "several", steps=()), entry(22, "several", steps=(5,))]
    ids = insert_all(server, new)
    assert ids == list(range(ids[0], ids[0] + 3))
    for entry_id, each in zip(ids, new, strict=True):
        (match,) = lookup(server, "image", each.image_scope, each.image_embedding)
        assert (match["entry_id"], tuple(match["steps"])) == (entry_id, each.steps)
        assert np.array_equal(fetch(server, entry_id)["image"], each.image)
        assert all(np.array_equal(fetch(server, entry_id, s)["latents"], each.latents[s]) for s in each.steps)


def test_all_or_none_go_in(server: Any) -> None:
    before = json.loads(call(server, "stats")["stats"].item())["entries"]
    new = [entry(23, "several"), entry(24, "several")]
    wrong = np.array([described(new[0]).encode(), described(new[1], seed=-1).encode()], np.object_)
    with pytest.raises(InferenceServerException, match="seed: got -1"):
        insert_all(server, new, entry=wrong)
    assert json.loads(call(server, "stats")["stats"].item())["entries"] == before


def bring(*limits: tuple[float, int], autoencoder: str = "") -> dict[str, Any]:
    reach, steps = zip(*limits, strict=True)
    tensors = {"bring_from": np.array(reach, np.float32), "bring_step": np.array(steps, np.int32)}
    return {**tensors, "autoencoder": autoencoder}


@pytest.mark.parametrize(
    ("limits", "autoencoder", "what", "step"),
    [
        ([(0.99, 0)], "", "image", 0),
        ([(0.99, 0)], "vae", "latents", 0),  # finished ones do as well
        ([(0.99, 0)], "another", "image", 0),
        ([(1.01, 0)], "vae", "", None),
        ([(1.01, 15), (0.99, 12)], "", "latents", 10),  # the latest that is there and may be used
        ([(0.99, 4)], "", "", None),
    ],
)
def test_of_the_best_comes_along_what_it_is_good_for(
    server: Any, limits: list[tuple[float, int]], autoencoder: str, what: str, step: int | None
) -> None:
    finished = np.full((4, 2, 2), 0.5, np.float32)
    new = replace(entry(25, "along"), latents={**entry(25).latents, 50: finished}, autoencoder="vae")
    entry_id = insert(server, new)
    asked = {"space": "image", "scope": new.image_scope, "embedding": new.image_embedding}
    outputs = call(server, "lookup", **asked, **bring(*limits, autoencoder=autoencoder))
    best = json.loads(outputs["matches"].item())[0]
    assert ({"image", "latents"} & set(outputs), best.get("brought")) == ({what} - {""}, step)
    wanted = {("image", 0): new.image, ("latents", 0): finished, ("latents", 10): new.latents[10]}
    if step is not None:
        assert np.array_equal(outputs[what], wanted[what, step])
        which = {"step": np.array([step], np.int32)} if step else {"autoencoder": autoencoder}
        fetched = call(server, "fetch", entry_id=np.array([entry_id]), **which)
        assert np.array_equal(fetched[what], outputs[what])
    call(server, "clear", tenant="along")


def test_an_image_alone_is_enough(server: Any) -> None:
    new = entry(3, "image-only", steps=())
    entry_id = insert(server, new)
    assert lookup(server, "text", new.image_scope, new.text_embedding)[0]["steps"] == []
    assert np.array_equal(fetch(server, entry_id)["image"], new.image)
    with pytest.raises(InferenceServerException, match=r"entry \d+: latents of step 5: not in the cache") as caught:
        fetch(server, entry_id, 5)
    assert caught.value.status() == "StatusCode.NOT_FOUND"


def test_a_scope_of_its_own_for_each_tenant(server: Any) -> None:
    for tenant in ("one", "two"):
        insert(server, entry(5, tenant))
    shared = entry(5, "one")
    assert len(lookup(server, "text", latents_scope("one"), shared.text_embedding, top_k=np.array([8], np.int32))) == 1
    assert lookup(server, "text", latents_scope("three"), shared.text_embedding) == []
    assert int(call(server, "clear", tenant="one")["entries"].item()) == 1
    assert lookup(server, "text", latents_scope("one"), shared.text_embedding) == []
    assert len(lookup(server, "text", latents_scope("two"), shared.text_embedding)) == 1
    assert int(call(server, "clear", scope=image_scope("two"))["entries"].item()) == 1


def test_pins(server: Any) -> None:
    entry_id = insert(server, entry(6, "pins"))
    for op in ("pin", "unpin"):
        assert call(server, op, entry_id=np.array([entry_id]))["entry_id"].tolist() == [entry_id]
    with pytest.raises(InferenceServerException, match="entry 123456789 is not in the cache"):
        call(server, "pin", entry_id=np.array([123456789]))


def test_statistics_and_metrics_count(server: Any) -> None:
    before = json.loads(call(server, "stats")["stats"].item())
    new = entry(7, "statistics")
    insert(server, new)
    lookup(server, "text", new.latents_scope, new.text_embedding)
    after = json.loads(call(server, "stats")["stats"].item())
    assert {name: after[name] - before[name] for name in ("entries", "inserts", "lookups", "hits")} == {
        "entries": 1,
        "inserts": 1,
        "lookups": 1,
        "hits": 1,
    }
    assert after["file_bytes"] > before["file_bytes"]
    assert (after["capacity"], after["eviction"]) == (10_000, "fifo")

    def shown() -> bool:
        with urllib.request.urlopen(server.metrics_url, timeout=10) as response:
            text = response.read().decode()
        values = dict(re.findall(r'^underpaint_cache_(\w+)\{model="cache"\} (\d+)$', text, re.MULTILINE))
        return int(values.get("inserts_total", 0)) >= after["inserts"] and int(values.get("entries", 0)) >= 1

    assert eventually(shown)


def test_a_heartbeat_says_since_when(server: Any) -> None:
    first, second = (call(server, "heartbeat")["alive_since_ns"] for _ in range(2))
    assert first.shape == (1,)
    assert 0 < first.item() == second.item() < time.monotonic_ns()


# What is refused ----------------------------------------------------------------------------------------------------

VECTOR = unit(np.random.default_rng(0))
ASKED = {"space": "text", "scope": image_scope("contract"), "embedding": VECTOR}
REFUSED = {
    "op": ("explode", {}, "op: got 'explode'; allowed: lookup, fetch, insert, stats, clear, pin, unpin, heartbeat"),
    "space": ("lookup", {**ASKED, "space": "smell"}, "space: got 'smell'; allowed: image, text"),
    "no scope": ("lookup", {"space": "text", "embedding": VECTOR}, "scope: got ''"),
    "scope": ("lookup", {**ASKED, "scope": "contract"}, "scope: got 'contract'; allowed: <tenant>/<16 hex digits>"),
    "no embedding": ("lookup", {"space": "text", "scope": image_scope()}, "embedding: got None"),
    "long embedding": ("lookup", {**ASKED, "embedding": 2 * VECTOR}, "embedding: got 'a vector of length 2'"),
    "other embedder": (
        "lookup",
        {**ASKED, "embedding": unit(np.random.default_rng(0), 8)},
        "embedding: got '8 numbers'; allowed: 16, as others in this scope",
    ),
    "top_k": ("lookup", {**ASKED, "top_k": np.array([0], np.int32)}, "top_k: got 0; allowed: 1 to 100"),
    "generation": ("lookup", {**ASKED, "max_generation": np.array([-1], np.int32)}, "max_generation: got -1"),
    "no id": ("fetch", {}, "entry_id: got None"),
    "tenant": ("clear", {"tenant": "a b"}, "tenant: got 'a b'"),
    "no JSON": ("insert", {"entry": "{"}, "entry: got '{'; allowed: a JSON object"),
    "no fields": ("insert", {"entry": "{}"}, "entry: fields: got []; allowed: image_scope, num_inference_steps"),
    "unknown field": ("insert", {"entry": '{"promt": "a"}'}, "entry: fields: got ['promt']"),
}


@pytest.mark.parametrize("op, tensors, message", REFUSED.values(), ids=REFUSED)
def test_bad_requests_name_what_is_wrong(server: Any, op: str, tensors: dict[str, Any], message: str) -> None:
    insert(server, entry(8, "contract"))
    with pytest.raises(InferenceServerException) as caught:
        call(server, op, **tensors)
    assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"
    assert caught.value.message().startswith(message)
    assert caught.value.message().endswith("[INVALID_ARG]")


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"latents_steps": np.array([5, 10], np.int32)}, "latents_steps: got [5, 10]; allowed: 3 steps"),
        ({"latents_steps": np.array([5, 10, 10], np.int32)}, "latents_steps: got [5, 10, 10]"),
        ({"latents_steps": np.array([5, 10, 51], np.int32)}, "latents: step: got 51; allowed: 1 to 50"),
        ({"latents_counts": np.array([2], np.int32)}, "latents_counts: got [2]; allowed: 1 numbers, 3 in all"),
        ({"image_embeddings": VECTOR[None] / 2}, "image_embedding: got 'a vector of length 0.5'"),
        ({"image_embeddings": np.stack([VECTOR, VECTOR])}, "image_embeddings: got '2 of them'; allowed: 1, one for"),
        ({"entry": described(entry(9), tenant="m/x")}, "tenant:"),
    ],
)
def test_bad_entries_are_not_put_in(server: Any, changes: dict[str, Any], message: str) -> None:
    before = json.loads(call(server, "stats")["stats"].item())["entries"]
    with pytest.raises(InferenceServerException) as caught:
        insert(server, entry(9), **changes)
    assert caught.value.message().startswith(message)
    assert json.loads(call(server, "stats")["stats"].item())["entries"] == before


# Faults -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("paintings")


@pytest.fixture(scope="module")
def own_server(store: Path) -> Iterator[Any]:
    """The model ``cache`` alone, on a store of its own, because these tests do it no good."""
    from underpaint.server import EmbeddedServer, ServerOptions

    options = ServerOptions(REPOSITORY, http_port=0, grpc_port=0, metrics_port=0, store=store, load_models=("cache",))
    with EmbeddedServer(options) as running:
        time.sleep(2.0)  # in which supervision gets to know the process that is going to be killed
        yield running


def test_nothing_is_lost_with_the_process(own_server: Any) -> None:
    new = entry(10)
    entry_id = insert(own_server, new)
    (pid,) = own_server.stub_pids("cache")
    os.kill(pid, signal.SIGKILL)
    assert eventually(lambda: bool(lookup(own_server, "text", new.latents_scope, new.text_embedding)))
    assert np.array_equal(fetch(own_server, entry_id)["image"], new.image)
    assert own_server.stub_pids("cache") != [pid]


def test_a_damaged_file_is_gone_and_the_rest_is_served(own_server: Any, store: Path) -> None:
    broken, whole = entry(11), entry(12)
    ids = insert(own_server, broken), insert(own_server, whole)
    (image,) = store.glob(f"files/*/{ids[0]}.npy")
    image.write_bytes(image.read_bytes()[:-1] + b"\xff\x00")
    with pytest.raises(InferenceServerException, match="it was removed from the cache") as caught:
        fetch(own_server, ids[0])
    assert caught.value.status() == "StatusCode.NOT_FOUND"
    assert all(
        match["entry_id"] != ids[0] for match in lookup(own_server, "text", latents_scope(), broken.text_embedding)
    )
    assert np.array_equal(fetch(own_server, ids[1])["image"], whole.image)


def test_a_second_server_starts_without_the_cache_and_takes_it_over(own_server: Any, store: Path) -> None:
    from underpaint.server import EmbeddedServer, ServerOptions

    options = ServerOptions(REPOSITORY, http_port=0, grpc_port=0, metrics_port=0, store=store, load_models=("cache",))
    with EmbeddedServer(options) as second:
        with pytest.raises(InferenceServerException, match=r"is in use by process \d+: stop that server") as caught:
            call(second, "stats")
        assert caught.value.status() == "StatusCode.UNAVAILABLE"
        assert call(second, "heartbeat")["alive_since_ns"].item() > 0, "there is nothing wrong with the model"
        entries = json.loads(call(own_server, "stats")["stats"].item())["entries"]
        own_server.stop()
        assert eventually(lambda: json.loads(call(second, "stats")["stats"].item())["entries"] == entries)
