"""Kill -9 while a real server inserts: the process of its cache, tritonserver, everything. What was acknowledged is
there afterwards, found and whole.

``UNDERPAINT_KILLS=N`` kills each N times instead of once.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from tritonclient.utils import InferenceServerException

from tests.conftest import REPOSITORY
from tests.serving.test_cache_model import insert_all
from underpaint.bench.cache.kills import is_whole, made_entry
from underpaint.cache.cache import ImageCache
from underpaint.cache.store import Store
from underpaint.cache.verify import check
from underpaint.server.options import free_ports

pytestmark = pytest.mark.server

KILLS = int(os.environ.get("UNDERPAINT_KILLS", "1"))
WRITERS = 3
PATIENCE_S = 180.0


class Serving:
    """``underpaint serve`` with the model ``cache`` alone, on a store; started again on the same ports."""

    def __init__(self, store: Path) -> None:
        http, grpc, metrics = free_ports(3, "127.0.0.1")
        self.grpc_url = f"127.0.0.1:{grpc}"
        ports = [f"--http-port={http}", f"--grpc-port={grpc}", f"--metrics-port={metrics}"]
        where = [f"--model-repository={REPOSITORY}", f"--store={store}", "--load-model=cache"]
        self._command = [sys.executable, "-m", "underpaint.server", "serve", *where, *ports]
        self._log = store.with_suffix(".log")
        self.start()

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log, start_new_session=True)

    def family(self) -> list[psutil.Process]:
        """The command and all that it has started."""
        command = psutil.Process(self._process.pid)
        return [command, *command.children(recursive=True)]

    def kill(self, what: str) -> None:
        """``cache``: the model's process; ``tritonserver``; or ``everything``, which is then started again."""
        for each in [each for each in self.family() if what in ("everything", _role(each))]:
            with suppress(psutil.NoSuchProcess):
                each.kill()
        if what == "everything":
            self._process.wait()
            self.start()

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(PATIENCE_S)

    def log(self) -> str:
        return self._log.read_text()


def _role(process: psutil.Process) -> str:
    try:
        words = process.cmdline()
    except psutil.Error:
        return ""
    program = Path(words[0]).name if words else ""
    return "cache" if "stub" in program else program


class Writers:
    """Threads that insert as fast as they can, whatever happens to the server. Each entry has a number of its own."""

    def __init__(self, serving: Serving) -> None:
        self.acknowledged: dict[int, int] = {}  # by id, the number
        self._serving, self._over = serving, threading.Event()
        self._threads = [threading.Thread(target=self._write, args=[first]) for first in range(WRITERS)]
        for thread in self._threads:
            thread.start()

    def until_more(self, count: int) -> None:
        """Wait until so many more entries are acknowledged."""
        wanted, end = len(self.acknowledged) + count, time.monotonic() + PATIENCE_S
        while len(self.acknowledged) < wanted:
            assert time.monotonic() < end, f"nothing is inserted any more\n{self._serving.log()}"
            time.sleep(0.01)

    def stop(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _write(self, number: int) -> None:
        server = SimpleNamespace(grpc_url=self._serving.grpc_url)
        while not self._over.is_set():
            numbers = [number, number + WRITERS]
            number += 2 * WRITERS  # what is not acknowledged may be there or not, and is not tried again
            try:
                ids = insert_all(server, [made_entry(each) for each in numbers])
            except InferenceServerException:
                time.sleep(0.1)
            else:
                self.acknowledged.update(zip(ids, numbers, strict=True))


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def serving(store: Path) -> Iterator[Serving]:
    running = Serving(store)
    yield running
    with suppress(psutil.NoSuchProcess):
        for each in running.family():
            with suppress(psutil.NoSuchProcess):
                each.kill()


@pytest.mark.parametrize("what", ["cache", "tritonserver", "everything"])
def test_what_was_acknowledged_survives(serving: Serving, store: Path, what: str) -> None:
    writers = Writers(serving)
    try:
        for _ in range(KILLS):
            writers.until_more(10)
            serving.kill(what)
        writers.until_more(10)
    finally:
        writers.stop()
    serving.stop()
    with Store(store) as left:
        assert not [fault for fault in check(left) if fault.kind != "stray"]
    with ImageCache(store, capacity=10_000) as cache:
        lost = [number for entry_id, number in writers.acknowledged.items() if not is_whole(cache, entry_id, number)]
    print(f"{KILLS} times kill -9 of {what}: {len(writers.acknowledged)} acknowledged, {len(lost)} lost")
    assert lost == []
