"""What lies behind URLs: over http, and in repositories of the hub, each of which a server in this process plays."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.addons.making import LAYOUTS, factors, lora_file
from underpaint.addons.sources import Limits, download
from underpaint.addons.store import LoraStore
from underpaint.errors import InvalidArgument, NotFound, Unavailable

fsspec = pytest.importorskip("fsspec")
pytest.importorskip("aiohttp")
pytest.importorskip("huggingface_hub")

PATIENCE_S = 20.0
WHOLE = lora_file(factors())
CONFIG = b'{"lora_alpha": 64}'


class _Remote(BaseHTTPRequestHandler):
    """Serves ``files`` by path, the answers of a hub among them; ``half`` is cut off, ``slow`` never ends, in
    ``/bucket`` nobody may look, and ``/down/503`` is just that."""

    files: dict[str, bytes]
    patience: threading.Event

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        content = self.files.get(path)
        if content is None:
            _, place, status, *_ = f"{path}//".split("/")
            return self.send_error(int(status) if place == "down" else 403 if place == "bucket" else 404)
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "HEAD":
            return
        name = Path(path).stem
        self.wfile.write(content[: len(content) // 2] if name in ("half", "slow") else content)
        if name == "slow":
            self.wfile.flush()
            self.patience.wait(PATIENCE_S)

    def do_HEAD(self) -> None:
        self.do_GET()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def remote() -> Iterator[Any]:
    """A server: its ``url``, and its ``files``."""
    handler = type("Remote", (_Remote,), {"files": {}, "patience": threading.Event()})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    server.url, server.files = f"http://127.0.0.1:{server.server_port}", handler.files  # type: ignore[attr-defined]
    yield server
    handler.patience.set()
    server.shutdown()


@pytest.fixture
def hub(remote: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The same as the hub, with a function that puts a repository there."""
    monkeypatch.setitem(fsspec.config.conf, "hf", {"endpoint": remote.url})

    def put(repository: str, files: Mapping[str, bytes]) -> None:
        listed = [{"type": "file", "oid": "0" * 40, "size": len(each), "path": name} for name, each in files.items()]
        remote.files[f"/api/models/{repository}"] = json.dumps({"id": repository, "sha": "c" * 40}).encode()
        remote.files[f"/api/models/{repository}/tree/main"] = json.dumps(listed).encode()
        remote.files.update({f"/{repository}/resolve/main/{name}": content for name, content in files.items()})

    return put


def store_of(where: str, **limits: Any) -> LoraStore:
    return LoraStore([where], LAYOUTS, limits=Limits(**limits))


def scale_of(file: Any) -> float:
    return float((file.adapter_config or {}).get("lora_alpha", 0))


def test_files_come_over_http_or_fail_in_time(remote: Any) -> None:
    remote.files.update({f"/loras/{name}.safetensors": WHOLE for name in ("night", "half", "slow")})
    store = store_of(f"{remote.url}/loras", timeout_s=1.0)
    assert store.load("night").result(PATIENCE_S).rank == 2
    with pytest.raises(NotFound):
        store.load("day").result(PATIENCE_S)
    for name in ("half", "slow"):
        with pytest.raises((Unavailable, InvalidArgument), match=name):
            store.load(name).result(PATIENCE_S)
    for status in (500, 503):
        with pytest.raises(Unavailable, match=f"{status}"):
            store_of(f"{remote.url}/down/{status}").load("night").result(PATIENCE_S)
    with pytest.raises(Unavailable, match="could not be read"):
        store_of("http://127.0.0.1:1/loras").load("night").result(PATIENCE_S)
    with pytest.raises(InvalidArgument, match="too large"):
        store_of(f"{remote.url}/loras", max_bytes=100).load("night").result(PATIENCE_S)


@pytest.mark.parametrize("folder", ["loras", "bucket"])  # a bucket that may not be listed says 403 of what it has not
def test_the_config_beside_a_file_is_heeded_from_afar_too(remote: Any, folder: str) -> None:
    remote.files.update({f"/{folder}/{name}.safetensors": WHOLE for name in ("plain", "scaled")})
    remote.files[f"/{folder}/scaled.json"] = CONFIG
    store = store_of(f"{remote.url}/{folder}")
    plain, scaled = (store.load(name).result(PATIENCE_S).unet for name in ("plain", "scaled"))
    assert plain is not None and scaled is not None and abs(scaled).max() > abs(plain).max()


def test_a_repository_of_the_hub_is_a_place_for_loras(hub: Any) -> None:
    hub("org/many", {"night.safetensors": WHOLE, "day.safetensors": WHOLE})
    store = store_of("hf://org/many")
    assert store.load("night").result(PATIENCE_S).rank == 2
    with pytest.raises(NotFound, match=r"no dawn in hf://org/many$"):  # what there is cannot be told
        store.load("dawn").result(PATIENCE_S)


def test_of_a_repository_the_one_that_is_meant_comes(hub: Any) -> None:
    hub("org/one", {"papercut.safetensors": WHOLE, "README.md": b""})
    assert download("mine", "hf://org/one", Limits()).content == WHOLE
    hub("org/peft", {"adapter_model.safetensors": WHOLE, "adapter_config.json": CONFIG, "b.safetensors": b"other"})
    file = download("mine", "hf://org/peft", Limits())
    assert (file.content, scale_of(file)) == (WHOLE, 64)


def test_where_a_repository_does_not_tell_its_files_are_named(hub: Any) -> None:
    hub("org/two", {"a.safetensors": WHOLE, "b.safetensors": WHOLE})
    with pytest.raises(InvalidArgument, match=r"hf://org/two/a\.safetensors, hf://org/two/b\.safetensors"):
        download("mine", "hf://org/two", Limits())
    assert download("mine", "hf://org/two/b.safetensors", Limits()).content == WHOLE
    with pytest.raises((NotFound, Unavailable), match="hf://org/none"):
        download("mine", "hf://org/none", Limits())
