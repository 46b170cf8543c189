"""A rollout under load, on a real server: nobody is refused, and everybody is told who painted."""

from __future__ import annotations

import filecmp
import io
import json
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import REPOSITORY
from tests.serving.triton_calls import generate, run_ensemble
from underpaint.build.recipes import load_recipe
from underpaint.build.repository import FAMILIES, render, write
from underpaint.cli import main
from underpaint.releases import Rollout
from underpaint.requests import GenerateRequest
from underpaint.server import EmbeddedServer, ServerOptions

pytestmark = pytest.mark.server

VARIANT = "tiny-s"
PARTS = ("unet", "text_encoder", "vae_encoder", "vae_decoder")
COMMON = ("tiny_tokenizer", "router", "discriminator")
PERCENT = 40.0


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The smallest variant alone, with a second version of it that is the first with a little noise."""
    folder = tmp_path_factory.mktemp("rollout") / "model_repository"
    for name in (*COMMON, f"{VARIANT}_denoiser", *(f"{VARIANT}_{part}" for part in PARTS)):
        shutil.copytree(REPOSITORY / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    recipe = load_recipe(FAMILIES / "tiny.toml")
    (only,) = (each for each in recipe.variants if each.name == VARIANT)
    alone = replace(recipe, variants=(only,), small=VARIANT, large=VARIANT, refiner="", clip=False)
    write(render(alone, folder), folder)
    for part in PARTS:
        shutil.copytree(folder / f"{VARIANT}_{part}" / "1", folder / f"{VARIANT}_{part}" / "2")
    (weights,) = (folder / f"{VARIANT}_unet" / "2").glob("*.safetensors")
    disturb(weights)
    return folder


def disturb(path: Path) -> None:
    """Every float16 of a safetensors file by some percent; its header stays, since graphs know where tensors begin."""
    raw = bytearray(path.read_bytes())
    values = np.frombuffer(raw, np.float16, offset=8 + int.from_bytes(raw[:8], "little"))
    values *= 1 + 0.03 * np.random.default_rng(0).standard_normal(values.shape).astype(np.float16)
    path.write_bytes(raw)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("rollout_store")


@pytest.fixture(scope="module")
def server(repository: Path, store: Path) -> Iterator[EmbeddedServer]:
    options = ServerOptions(repository, http_port=0, grpc_port=0, metrics_port=0, store=store)
    with EmbeddedServer(options) as running:
        yield running


@dataclass
class Load:
    """Callers that go on asking, each request with a seed of its own, and what became of it."""

    url: str
    seed: int = 0
    versions: dict[int, int] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def ask(self, over: threading.Event) -> None:
        while not over.is_set():
            with self._lock:
                self.seed += 1
                seed = self.seed
            try:
                self.versions[seed] = generate(self.url, seed=seed)[1]["version"]
            except Exception as error:
                self.failures.append(f"{seed}: {error}")

    def until(self, more: int) -> None:
        """Until so many more have been answered."""
        enough, deadline = len(self.versions) + more, time.monotonic() + 120
        while len(self.versions) < enough and not self.failures:
            assert time.monotonic() < deadline
            time.sleep(0.05)


@contextmanager
def load(server: EmbeddedServer, callers: int = 2, first_seed: int = 0) -> Iterator[Load]:
    asking, over = Load(server.grpc_url, first_seed), threading.Event()
    threads = [threading.Thread(target=asking.ask, args=[over]) for _ in range(callers)]
    for each in threads:
        each.start()
    try:
        yield asking
    finally:
        over.set()
        for each in threads:
            each.join()


def rollout(server: EmbeddedServer, step: str, *arguments: str) -> str:
    """The command, as an operator gives it; what it prints."""
    options = server.options
    address = f"127.0.0.1:{options.http_port}:{options.metrics_port}"
    where = ["--server", address, "--model-repository", str(options.model_repository), "--store", str(options.store)]
    said = io.StringIO()
    with redirect_stdout(said):
        assert main(["rollout", step, *arguments, *where]) == 0
    return said.getvalue()


def paint(server: EmbeddedServer, ensemble: str, seed: int) -> np.ndarray:
    fields = {"seed": seed, "num_inference_steps": 2, "guidance_scale": 1.0, "scheduler": "ddim"}
    return run_ensemble(server.grpc_url, ensemble, **fields)["image"]


def test_a_rollout_under_load_fails_nobody(
    server: EmbeddedServer, repository: Path, store: Path, tmp_path: Path
) -> None:
    """A share, then everything, then nothing after all: who is asked meanwhile answers."""
    before = shutil.copytree(repository, tmp_path / "before")
    pids = {part: server.stub_pids(f"{VARIANT}_{part}") for part in PARTS}
    with load(server) as asking:
        asking.until(10)
        rollout(server, "start", "tiny", "--version", "2", "--percent", str(PERCENT))
        began = asking.seed
        for part in PARTS:  # what served goes on serving, in the same processes
            assert set(pids[part]) < set(server.stub_pids(f"{VARIANT}_{part}"))
        older, newer = (paint(server, name, 5) for name in (VARIANT, f"{VARIANT}@2"))
        asking.until(100)
        ended = asking.seed
        time.sleep(1.5)  # metrics go out once a second
        told = json.loads(rollout(server, "status", "--json"))
        rollout(server, "promote")
        promoted = asking.seed
        asking.until(15)
        rollout(server, "abort")
        aborted = asking.seed
        asking.until(15)
    assert asking.failures == []
    assert (older != newer).any()

    decided = Rollout("tiny", 2, PERCENT)
    settled = {seed: version for seed, version in asking.versions.items() if began + 5 < seed < ended - 5}
    assert len(settled) > 80
    assert all((version == 2) == decided.takes(GenerateRequest("a", seed=seed)) for seed, version in settled.items())
    assert {version for seed, version in asking.versions.items() if promoted < seed < promoted + 10} == {2}
    assert {version for seed, version in asking.versions.items() if seed > aborted} == {1}

    requests = {each["version"]: each for each in told["measured"]}
    assert requests[1]["requests"] + requests[2]["requests"] >= 90
    assert requests[1]["failures"] == requests[2]["failures"] == 0
    assert told["routed"] == pytest.approx(PERCENT, abs=20)
    assert all(0 < each["p50_s"] <= each["p95_s"] < 60 for each in requests.values())
    assert all(each["judged"] and 0 <= each["quality"] <= 1 for each in requests.values())

    assert np.array_equal(paint(server, VARIANT, 5), older)
    assert not (store / "rollout.json").exists()
    assert differences(before, repository) == []


def differences(one: Path, other: Path) -> list[str]:
    compared = filecmp.dircmp(one, other, ignore=["__pycache__"])
    names = [*compared.left_only, *compared.right_only, *compared.diff_files]
    return names + [name for each in compared.common_dirs for name in differences(one / each, other / each)]


def test_a_version_that_does_not_load_leaves_everything_as_it_was(
    server: EmbeddedServer, repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for part in PARTS:
        shutil.copytree(repository / f"{VARIANT}_{part}" / "1", repository / f"{VARIANT}_{part}" / "3")
    (repository / f"{VARIANT}_vae_decoder" / "3" / "model.onnx").write_bytes(b"broken")
    before = shutil.copytree(repository, tmp_path / "before")
    options = server.options
    address = f"127.0.0.1:{options.http_port}:{options.metrics_port}"
    where = ["--server", address, "--model-repository", str(repository), "--store", str(options.store)]
    assert main(["rollout", "start", "tiny", "--version", "3", *where]) == 2
    assert f"{VARIANT}_vae_decoder does not load" in capsys.readouterr().err
    assert differences(before, repository) == []
    assert generate(server.grpc_url, seed=1)[1]["version"] == 1
