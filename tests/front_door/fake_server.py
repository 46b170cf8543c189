"""The other models of a server, as the front door sees them through its transport."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np

from tests.front_door.fake_cache import FakeCache, bytes_of
from tests.front_door.fake_scorers import FakeScorers
from underpaint.deployment import Deployment, Scorer, Variant
from underpaint.errors import Cancelled, NotFound, Unavailable, UnderpaintError
from underpaint.front_door.door import DoorLimits, FrontDoor
from underpaint.front_door.gathering import Patience
from underpaint.front_door.reading import Readers
from underpaint.front_door.transport import Parameters, Tensors
from underpaint.policies import Calibration, Settings, Thresholds

T = TypeVar("T")

LARGE = Variant(
    name="big",
    num_inference_steps=25,
    max_inference_steps=50,
    guidance_scale=3.0,
    max_guidance_scale=20.0,
    sizes=((6, 4),),
    schedulers=("ddim", "euler"),
    prompt_tokens=22,
    weights="w-big",
)
SMALL = replace(LARGE, name="little", num_inference_steps=10, prompt_tokens=7, weights="w-little")
DEPLOYMENT = Deployment(
    "two",
    {"big": LARGE, "little": SMALL},
    small="little",
    large="big",
    embedder="clip",
    router=Scorer("w-router", "w-little", (0.0, 0.5, 1.0)),
    discriminator=Scorer("w-discriminator", "w-little", (0.0, 0.5, 1.0)),
)
CALIBRATION = Calibration(
    embedder="clip",
    small="w-little",
    large="w-big",
    alpha=0.98,
    modm=Thresholds.of((0.8, 0.6), (0.6, 0.2)),
    nirvana=Thresholds.of((0.9, 0.5), (0.7, 0.2)),
    retrieval=Thresholds.of((0.95, 1.0)),
)
CALIBRATED = Settings.of(DEPLOYMENT, CALIBRATION)
LIMITS = DoorLimits(
    capacity=6,
    concurrency=3,
    timeout_s=10.0,
    attend_every_s=0.005,
    heartbeat_every_s=0.005,
    heartbeats_missed=2,
    patience=Patience(embed_s=5.0, lookup_s=5.0, fetch_s=5.0),
)
READERS = Readers(embedder=bytes_of, scorers=bytes_of)
PATIENCE_S = 120.0  # of a test, before it calls a deadlock a deadlock
FAR_PAST_NS = 0


@dataclass(frozen=True, eq=False)
class Call:
    """One call of an ensemble."""

    model: str
    inputs: Tensors
    outputs: Sequence[str]
    timeout_s: float
    parameters: Parameters

    @property
    def request_id(self) -> str:
        return str(self.parameters["request_id"])


@dataclass
class FakeServer:
    """Ensembles that answer at once or, where ``slow``, when told to; denoisers that know what their ensembles paint.

    Attributes:
        slow: variants that paint until ``finish`` is called.
        dead: variants whose denoiser answers nothing, and ``death`` what comes of asking it.
        alive_since_ns: of every denoiser's process.
        failure: what every ensemble raises; ``refusals``: what some of them do.
        prompt_tokens, negative_tokens: what every tokenizer counts; ``lora_steps``: where every LoRA joins.
        elsewhere: request ids that the denoiser of ``big`` got through another front door.
        cache: the cache and the embedders; ``scorers``: router and discriminator.
        calls: of ensembles, in order.
        asked: (variant, op, request id) of every question to a denoiser.
    """

    slow: frozenset[str] = frozenset()
    dead: set[str] = field(default_factory=set)
    death: UnderpaintError = field(default_factory=lambda: Unavailable("the denoiser did not answer within 2.0 s"))
    alive_since_ns: int = FAR_PAST_NS
    failure: BaseException | None = None
    refusals: dict[str, UnderpaintError] = field(default_factory=dict)
    prompt_tokens: int = 5
    negative_tokens: int = 0
    lora_steps: int = 0
    elsewhere: set[str] = field(default_factory=set)
    cache: FakeCache = field(default_factory=FakeCache)
    scorers: FakeScorers = field(default_factory=FakeScorers)
    calls: list[Call] = field(default_factory=list)
    asked: list[tuple[str, str, str]] = field(default_factory=list)
    most_at_once: int = 0
    _painting: dict[str, asyncio.Future[None]] = field(default_factory=dict)

    async def infer(
        self,
        model: str,
        inputs: Tensors,
        outputs: Sequence[str],
        timeout_s: float,
        parameters: Parameters | None = None,
    ) -> Mapping[str, np.ndarray]:
        given = dict(parameters or {})
        if model.endswith("_denoiser"):
            op = inputs["op"].item().decode()
            answer = self._denoiser(model.removesuffix("_denoiser"), op, str(given["request_id"]))
            for _ in range(5):  # an answer takes its time, and others may get theirs before it
                await asyncio.sleep(0)
            return answer
        if model in self.cache.models:
            return await self.cache.infer(model, inputs)
        if model in self.scorers.scores:
            return await self.scorers.infer(model, inputs)
        if model.endswith("_vae_decoder:1"):
            return {"image": np.full((1, 4, 6, 3), int(inputs["latents"].flat[0]), np.uint8)}
        return await self._ensemble(Call(model, dict(inputs), tuple(outputs), timeout_s, given))

    def finish(self, request_id: str) -> None:
        self._painting[request_id].set_result(None)

    @property
    def painting(self) -> list[str]:
        """Request ids that ensembles hold at this moment."""
        return list(self._painting)

    async def until_painting(self, count: int) -> None:
        while len(self._painting) < count:
            await asyncio.sleep(0)

    def cancelled(self) -> list[tuple[str, str]]:
        """(variant, request id) of every cancellation that reached a denoiser."""
        return [(variant, request_id) for variant, op, request_id in self.asked if op == "cancel"]

    async def _ensemble(self, call: Call) -> dict[str, np.ndarray]:
        self.calls.append(call)
        if self.failure is not None:
            raise self.failure
        if call.model in self.refusals:
            raise self.refusals[call.model]
        arrived_ns = time.monotonic_ns()
        done = self._painting[call.request_id] = asyncio.get_running_loop().create_future()
        self.most_at_once = max(self.most_at_once, len(self._painting))
        if call.model not in self.slow:
            asyncio.get_running_loop().call_soon(lambda: done.done() or done.set_result(None))
        try:
            await asyncio.wait_for(done, call.timeout_s)
        except TimeoutError:
            raise Unavailable(f"{call.model} did not answer within {call.timeout_s:.1f} s") from None
        finally:
            del self._painting[call.request_id]
        times = [arrived_ns, arrived_ns + 1_000_000, arrived_ns + 3_000_000, 0]
        skipped = call.inputs["start_step"].item() if "start_step" in call.inputs else 0
        captured = call.inputs.get("capture_steps", np.empty((1, 0), np.int32))
        size = call.inputs["height"].item(), call.inputs["width"].item()
        outputs = {
            "image": np.full((1, *size, 3), len(self.calls), np.uint8),
            "prompt_tokens": np.array([[self.prompt_tokens, self.negative_tokens]], np.int32),
            "timings_ns": np.array([times], np.int64),
            "steps_run": call.inputs["num_inference_steps"] - np.int32(skipped),
            "latents": np.ones((1, 2, 2, 3), np.float32),
            "lora_steps": np.full((1, str(call.parameters.get("lora", "")).count(",") + 1), self.lora_steps, np.int32),
            "captured_latents": captured.reshape(1, -1, 1, 1, 1) * np.ones((1, 1, 2, 2, 3), np.float32),
        }
        if call.model.endswith("_refine"):
            outputs["refined_image"] = outputs.pop("image")
        return {name: outputs[name] for name in call.outputs}

    def _denoiser(self, variant: str, op: str, request_id: str) -> dict[str, np.ndarray]:
        self.asked.append((variant, op, request_id))
        if variant in self.dead:
            raise self.death
        if op == "heartbeat":
            return {"alive_since_ns": np.array([[self.alive_since_ns]], np.int64)}
        models = (variant, f"{variant}_refine", f"{variant}_resume")
        here = (
            any(c.request_id == request_id and c.model in models for c in self.calls) and request_id in self._painting
        )
        if not here and not (variant == "big" and request_id in self.elsewhere):
            raise NotFound(f"request_id: {request_id!r} is not being denoised here")
        if op == "cancel" and here and not self._painting[request_id].done():
            self._painting[request_id].set_exception(Cancelled(f"request {request_id} was cancelled at step 3"))
        return {"progress": np.array([[3, 25]], np.int32), "latents": np.full((1, 2, 2, 2), 7, np.float32)}


def open_door(server: FakeServer, settings: Settings | None = None, **limits: Any) -> FrontDoor:
    """Where ``settings`` are not given, nothing is calibrated."""
    return FrontDoor(DEPLOYMENT, server, READERS, replace(LIMITS, **limits), settings, log=server.cache.log.append)


def run(test: Coroutine[Any, Any, T]) -> T:
    """Run an asynchronous test, which fails if it hangs, or if it loses an error of a task of its own."""
    lost: list[str] = []

    async def guarded() -> T:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: lost.append(f"{context['message']}: {context.get('exception')}"))
        return await asyncio.wait_for(test, PATIENCE_S)

    result = asyncio.run(guarded())
    assert lost == []
    return result
