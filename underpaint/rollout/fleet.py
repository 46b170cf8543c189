"""The servers of a rollout: what they load, what their front doors have understood, what they still have in hand."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from underpaint.errors import InvalidArgument, Unavailable
from underpaint.monitor.metrics import Endpoint, Sample
from underpaint.server.control import ControlClient, TritonError

DEFAULT = "127.0.0.1:8000:8002"
_DOORS = ("generate", "generate_stream")
_ANSWERS_WITHIN_S = 10.0
_LOOK_EVERY_S = 0.1
_HELD = ("underpaint_denoiser_running", "underpaint_denoiser_waiting")


@dataclass(frozen=True)
class Door:
    """What a front door says of itself. ``in_flight``: requests by release, the family's own under an empty suffix."""

    name: str
    version: int
    candidate: int | None
    percent: float
    in_flight: dict[str, int]

    @classmethod
    def of(cls, name: str, told: dict[str, Any]) -> Door:
        return cls(name, told["version"], told["candidate"], told["percent"], told["in_flight_by_release"])


@dataclass(frozen=True)
class Server:
    """One of them. Methods raise Unavailable where it does not do as it is told, naming it."""

    control: ControlClient
    metrics: Endpoint
    load_timeout_s: float = 600.0

    @classmethod
    def at(cls, address: str) -> Server:
        """``HOST:HTTP_PORT:METRICS_PORT``. Raises InvalidArgument."""
        parts = address.rsplit(":", 2)
        if len(parts) != 3 or not all(port.isdigit() and 0 < int(port) < 65536 for port in parts[1:]):
            raise InvalidArgument.of("server", address, "HOST:HTTP_PORT:METRICS_PORT")
        host, http, metrics = parts
        return cls(ControlClient(host, int(http)), Endpoint(f"http://{host}:{metrics}/metrics"))

    def load(self, models: Sequence[str]) -> None:
        """One after the other, each in the versions that its config says. Returns when what had to go has gone."""
        for model in models:
            try:
                self.control.load(model, self.load_timeout_s)
            except (OSError, TritonError) as error:
                raise Unavailable(f"{self.name}: {model} does not load: {error}") from None
        self._settle()

    def unload(self, models: Sequence[str]) -> None:
        """Returns when they have gone."""
        for model in models:
            try:
                self.control.unload(model)
            except (OSError, TritonError) as error:
                raise Unavailable(f"{self.name}: {model} does not unload: {error}") from None
        self._settle()

    def _settle(self) -> None:
        deadline = time.monotonic() + self.load_timeout_s
        while self._in_transition():
            if time.monotonic() > deadline:
                raise Unavailable(f"{self.name}: {', '.join(self._in_transition())} neither loaded nor unloaded")
            time.sleep(_LOOK_EVERY_S)

    def _in_transition(self) -> list[str]:
        try:
            return self.control.in_transition()
        except (OSError, TritonError) as error:
            raise Unavailable(f"{self.name} does not answer: {error}") from None

    def doors(self) -> list[Door]:
        """Its front doors, as they are now."""
        try:
            ready = set(self.control.ready_models())
            return [self._door(name) for name in _DOORS if name in ready]
        except (OSError, TritonError) as error:
            raise Unavailable(f"{self.name} does not answer: {error}") from None

    def held_by(self, denoisers: Sequence[str]) -> int:
        """How many requests these denoisers have in hand, whoever they came from."""
        sample = self.sample()
        counts = (sample.by(name, "model") for name in _HELD)
        return sum(int(by[denoiser]) for by in counts for denoiser in denoisers)

    def sample(self) -> Sample:
        return self.metrics.fetch(_ANSWERS_WITHIN_S)

    def _door(self, name: str) -> Door:
        answer = self.control.generate(name, {"op": "heartbeat"}, _ANSWERS_WITHIN_S)
        return Door.of(name, json.loads(answer["outcome"]))

    @property
    def name(self) -> str:
        return f"{self.control.host}:{self.control.port}"
