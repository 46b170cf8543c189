"""Stand-ins for a UNet and for a clock, and the plain arithmetic that the engine must agree with."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from underpaint.diffusion.conditioning import Conditioning
from underpaint.diffusion.denoiser import Trajectory, UNet
from underpaint.diffusion.noise import gaussian
from underpaint.diffusion.schedule import Schedule
from underpaint.diffusion.schedulers import load_scheduler

PREDICTION = "v_prediction"
CONFIG = {
    "_class_name": "DDIMScheduler",
    "prediction_type": PREDICTION,
    "beta_schedule": "scaled_linear",
    "timestep_spacing": "trailing",
    "rescale_betas_zero_snr": True,
}
SCHEDULERS = {name: load_scheduler(CONFIG, name) for name in ("ddim", "euler", "dpm_solver_multistep")}
SHAPE = (3, 4, 4)
PATIENCE_S = 20.0  # of a test, before it calls a deadlock a deadlock


def predict(sample: np.ndarray, timestep: np.ndarray, conditioning: Conditioning) -> np.ndarray:
    """Smooth, and of each row alone; prompts differ in their first number."""
    bias = np.sin(timestep / 300) + conditioning.embeds[:, 0, 0]
    return (np.float32(0.6) * np.tanh(sample + bias[:, None, None, None])).astype(np.float32)


def begun(answer: Callable[..., np.ndarray]) -> UNet:
    """A UNet that computes when it is waited for."""
    return lambda *rows: partial(answer, *rows)


class Gate:
    """A place in the run where the UNet waits until the test has done what it came for."""

    def __init__(self) -> None:
        self._reached, self._open = threading.Event(), threading.Event()

    def pass_through(self) -> None:
        self._reached.set()
        assert self._open.wait(PATIENCE_S), "nobody opened the gate"

    def wait(self) -> None:
        """Until the UNet stands here."""
        assert self._reached.wait(PATIENCE_S), "the UNet was never called so often"

    def open(self) -> None:
        self._open.set()


@dataclass
class FakeUNet:
    """``predict`` with gates, failures and poisoned rows.

    Attributes:
        gates: by number of the call, from 0.
        failures: what these calls raise instead of answering.
        fail_always: what every call raises.
        not_a_number_for: first numbers of prompts whose rows come out as NaN.
        refuse: first numbers of prompts with which no call works, and what it raises.
        calls: the prompts' first numbers of each call, row by row.
    """

    gates: Mapping[int, Gate] = field(default_factory=dict)
    failures: Mapping[int, Exception] = field(default_factory=dict)
    fail_always: Exception | None = None
    not_a_number_for: frozenset[float] = frozenset()
    refuse: Mapping[float, Exception] = field(default_factory=dict)
    calls: list[list[float]] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, sample: np.ndarray, timestep: np.ndarray, conditioning: Conditioning) -> np.ndarray:
        assert {a.dtype for a in (sample, timestep, conditioning.embeds)} == {np.dtype(np.float32)}
        prompts = conditioning.embeds[:, 0, 0].tolist()
        with self._lock:
            number = len(self.calls)
            self.calls.append(prompts)
        if number in self.gates:
            self.gates[number].pass_through()
        failure = self.failures.get(number) or self.fail_always
        refused = [self.refuse[prompt] for prompt in prompts if prompt in self.refuse]
        if failure or refused:
            raise failure or refused[0]
        output = predict(sample, timestep, conditioning)
        output[[prompt in self.not_a_number_for for prompt in prompts]] = np.nan
        return output

    @property
    def rows(self) -> list[int]:
        return [len(call) for call in self.calls]

    def open_all(self) -> None:
        for gate in self.gates.values():
            gate.open()


class Clock:
    """Time that passes when the test says so. Starts late: nothing may depend on when the machine was started."""

    def __init__(self) -> None:
        self.now_ns = 10**18

    def __call__(self) -> int:
        return self.now_ns

    def advance(self, seconds: float) -> None:
        self.now_ns += int(seconds * 1e9)


@dataclass(frozen=True)
class Painting:
    """What a test asks for. ``prompt`` is the first number of its embedding; ``guidance`` 1 means none."""

    seed: int
    steps: int = 6
    scheduler: str = "ddim"
    guidance: float = 1.0
    start_step: int = 0

    @property
    def prompt(self) -> float:
        return float(np.float32(self.seed % 97 / 100))

    @property
    def schedule(self) -> Schedule:
        return SCHEDULERS[self.scheduler].schedule(self.steps)

    def start(self) -> np.ndarray:
        noise = gaussian(self.seed, SHAPE)
        if self.start_step == 0:
            return self.schedule.start_from_noise(noise)
        return self.schedule.start_from_image(gaussian(self.seed + 1, SHAPE), noise, self.start_step)

    def trajectory(self, capture_steps: frozenset[int] = frozenset()) -> Trajectory:
        guided = self.guidance > 1
        return Trajectory(
            schedule=self.schedule,
            sample=self.start(),
            step=self.start_step,
            prompt=told(self.prompt),
            negative_prompt=told(-self.prompt) if guided else None,
            guidance_scale=self.guidance,
            capture_steps=capture_steps,
        )

    def path(self) -> list[np.ndarray]:
        """The samples before each step and after the last, by the book: DDIM eq. 12, CFG eq. 6, v read backwards; for
        DPM-Solver++(2M) with the clean estimate carried on from the one before, if there is one."""
        table, x = self.schedule, self.start()
        path, before = [x], None
        for i in range(self.start_step, self.steps):
            v = self._guided_prediction(x, table.timesteps[i])
            clean = table.alphas[i] * x - table.sigmas[i] * v
            ahead = clean if before is None else clean + table.carry[i] * (clean - before)
            noise = (x - table.alphas[i] * ahead) / table.sigmas[i]
            x, before = table.alphas_next[i] * ahead + table.sigmas_next[i] * noise, clean
            path.append(x)
        return path

    def _guided_prediction(self, x: np.ndarray, timestep: np.float32) -> np.ndarray:
        def seen_with(prompt: float) -> np.ndarray:
            return predict(x[None], np.array([timestep], np.float32), Conditioning.stack([told(prompt)]))[0]

        wanted = seen_with(self.prompt)
        if self.guidance <= 1:
            return wanted
        unwanted = seen_with(-self.prompt)
        return unwanted + np.float32(self.guidance) * (wanted - unwanted)


def embeds(prompt: float) -> np.ndarray:
    return np.full((2, 5), prompt, np.float32)


def told(prompt: float) -> Conditioning:
    return Conditioning(embeds(prompt))
