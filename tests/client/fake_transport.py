"""A server in a list: what it was asked, and what it shall answer."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator, Iterable
from dataclasses import dataclass, field

import numpy as np

from underpaint.client.address import Address
from underpaint.client.messages import Call, Tensors
from underpaint.front_door.outcome import Outcome, Timings


def an_outcome(**changes: object) -> Outcome:
    values = {
        "request_id": "me",
        "prompt": "a red circle",
        "negative_prompt": "",
        "policy": "vanilla",
        "variant": "tiny-l",
        "start": "noise",
        "seed": 7,
        "scheduler": "ddim",
        "num_inference_steps": 25,
        "steps_run": 25,
        "steps_skipped": 0,
        "guidance_scale": 3.0,
        "width": 8,
        "height": 8,
        "timings_ms": Timings(0.1, 2.0, 0.3, 400.0, 5.0, 407.4),
    }
    return Outcome(**{**values, **changes})


def a_picture(**changes: object) -> dict[str, np.ndarray]:
    outcome = an_outcome(**changes).to_json().encode()
    return {"image": np.full((8, 8, 3), 9, np.uint8), "outcome": np.array([outcome], np.object_)}


def progress(step: int, total: int) -> dict[str, np.ndarray]:
    return {"progress": np.array([step, total], np.int32)}


@dataclass
class FakeTransport:
    """Answers every call with ``answers``, in order; ``infer`` with the first.

    ``streams_ended`` counts those that were read to their end, ``streams_closed`` these and those that were left.
    """

    answers: Iterable[Tensors] = ()
    ready_after: int = 0
    calls: list[Call] = field(default_factory=list)
    timeouts: list[float | None] = field(default_factory=list)
    streams_closed: int = 0
    streams_ended: int = 0
    closed: bool = False
    address: Address = field(default_factory=lambda: Address.parse("localhost:1"))

    def infer(self, call: Call, timeout_s: float | None) -> Tensors:
        self._note(call, timeout_s)
        return next(iter(self.answers))

    def stream(self, call: Call, timeout_s: float | None) -> Generator[Tensors, None, None]:
        self._note(call, timeout_s)
        try:
            yield from self.answers
            self.streams_ended += 1
        finally:
            self.streams_closed += 1

    def ready(self, model: str) -> bool:
        self.ready_after -= 1
        return self.ready_after < 0

    def close(self) -> None:
        self.closed = True

    def _note(self, call: Call, timeout_s: float | None) -> None:
        self.calls.append(call)
        self.timeouts.append(timeout_s)


class FakeAsyncTransport:
    """The same, awaited."""

    def __init__(self, inner: FakeTransport) -> None:
        self.inner, self.address = inner, inner.address

    async def infer(self, call: Call, timeout_s: float | None) -> Tensors:
        return self.inner.infer(call, timeout_s)

    async def stream(self, call: Call, timeout_s: float | None) -> AsyncGenerator[Tensors, None]:
        try:
            for tensors in self.inner.stream(call, timeout_s):
                yield tensors
        finally:
            self.inner.streams_closed += 1

    async def ready(self, model: str) -> bool:
        return self.inner.ready(model)

    async def close(self) -> None:
        self.inner.close()
