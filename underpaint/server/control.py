"""The part of Triton's HTTP interface that the launcher and the supervisor use."""

from __future__ import annotations

import contextlib
import http.client
import json
import urllib.parse
from dataclasses import dataclass
from typing import Any

from underpaint.errors import Unavailable


class TritonError(Unavailable):
    """Triton answered with an error; the message is its own."""


@dataclass(frozen=True)
class ControlClient:
    """Calls to one server, each over a connection of its own. Methods raise ``OSError`` where it does not answer."""

    host: str
    port: int

    def live(self) -> bool:
        """Whether the server answers at all."""
        try:
            return self._call("GET", "/v2/health/live", timeout_s=5.0)[0] == 200
        except OSError:
            return False

    def ready(self) -> bool:
        """Whether the server and all its models are ready."""
        try:
            return self._call("GET", "/v2/health/ready", timeout_s=5.0)[0] == 200
        except OSError:
            return False

    def ready_models(self) -> list[str]:
        """Names of the models that are loaded and ready."""
        index = self._json("POST", "/v2/repository/index", {"ready": True}, timeout_s=30.0)
        return sorted({entry["name"] for entry in index if entry.get("state") == "READY"})

    def in_transition(self) -> list[str]:
        """Names of the models of which a version is being loaded or unloaded.

        Server 2.51 hangs, or corrupts its memory, where a version is loaded again before its unloading has ended.
        """
        index = self._json("POST", "/v2/repository/index", {}, timeout_s=30.0)
        return sorted({entry["name"] for entry in index if entry.get("state") in ("LOADING", "UNLOADING")})

    def config(self, model: str) -> dict[str, Any]:
        """The configuration that the server runs a model with, fit to be loaded again with changes.

        Without ``runtime``, which Triton fills in itself and afterwards takes for a change: a load that only adds or
        removes instances would replace them all.
        """
        config: dict[str, Any] = self._json("GET", f"{_path(model)}/config", None, timeout_s=30.0)
        config.pop("runtime", None)
        return config

    def load(self, model: str, timeout_s: float, config: dict[str, Any] | None = None) -> None:
        """Load a model, with ``config`` in place of its file if given. Raises ``TritonError`` if it will not load."""
        parameters = {} if config is None else {"config": json.dumps(config)}
        self._json("POST", f"/v2/repository/models/{_quoted(model)}/load", {"parameters": parameters}, timeout_s)

    def unload(self, model: str) -> None:
        """Take a model out of service; returns at once."""
        self._json("POST", f"/v2/repository/models/{_quoted(model)}/unload", {}, timeout_s=30.0)

    def generate(self, model: str, body: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        """One inference, its outputs by name; raises ``TritonError`` where it fails."""
        outputs: dict[str, Any] = self._json("POST", f"{_path(model)}/generate", body, timeout_s)
        return outputs

    def _json(self, method: str, path: str, body: object, timeout_s: float) -> Any:
        status, text = self._call(method, path, body, timeout_s)
        if status != 200:
            raise TritonError(_message(text))
        return json.loads(text) if text.strip() else None

    def _call(self, method: str, path: str, body: object = None, timeout_s: float = 5.0) -> tuple[int, str]:
        connection = http.client.HTTPConnection(self.host, self.port, timeout=timeout_s)
        with contextlib.closing(connection):
            try:
                connection.request(method, path, None if body is None else json.dumps(body))
                response = connection.getresponse()
                return response.status, response.read().decode("utf-8", "replace")
            except http.client.HTTPException as error:
                raise ConnectionError(f"tritonserver closed the connection ({error})") from error


def _path(model: str) -> str:
    return f"/v2/models/{_quoted(model)}"


def _quoted(model: str) -> str:
    return urllib.parse.quote(model, safe="@")  # which Triton takes as it is, and not as %40


def _message(text: str) -> str:
    """Triton's error text out of its JSON envelope."""
    with contextlib.suppress(ValueError, TypeError, KeyError):
        return str(json.loads(text)["error"])
    return text or "no reason given"
