"""One step of many requests: stack their rows, call the UNet once, advance each by its own schedule. Computes;
decides nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from underpaint.diffusion.adapters import Adapted, Adapter, Banks, Joining
from underpaint.diffusion.conditioning import Conditioning
from underpaint.diffusion.prediction import Prediction
from underpaint.diffusion.sampling import guide, step
from underpaint.diffusion.schedule import Schedule
from underpaint.errors import Internal

Answer = Callable[[], np.ndarray]


class UNet(Protocol):
    """Noise prediction for b rows, each at a timestep of its own."""

    def __call__(self, sample: np.ndarray, timestep: np.ndarray, conditioning: Conditioning) -> Answer:
        """Begin a prediction, so that several can be under way at once.

        Args:
            sample: float32 [b, C, h, w].
            timestep: float32 [b].
            conditioning: of b rows.

        Returns:
            What waits for the answer, float32 [b, C, h, w], and raises an UnderpaintError if the call has failed;
            calling again may succeed.
        """


class LoraTwin(Protocol):
    """The UNet's twin, for rows with LoRAs."""

    def __call__(
        self, sample: np.ndarray, timestep: np.ndarray, conditioning: Conditioning, adapted: Adapted
    ) -> Answer:
        """As the UNet does; each row with its own LoRAs."""


@dataclass
class Trajectory:
    """A request on its way from noise to latents.

    Attributes:
        schedule: the levels it visits.
        sample: float32 [C, h, w], where it is.
        step: which step comes next, 0 to len(schedule).
        prompt, negative_prompt: what the network is told; without the negative there is no guidance by two rows.
        guidance_scale: of classifier-free guidance.
        capture_steps: keep the sample as it is before each of these steps.
        clean: float32 [C, h, w], the latest estimate of the finished latents; None before the first step.
        captured: the samples kept so far, by step.
        joining: LoRAs that it has to take up at some step; None once it has, and without any.
        adapters: the LoRAs that it has taken up, as far as they concern the UNet; ``joined``: the names of all.
        joined_at: the step before which it took them up; None without any.
    """

    schedule: Schedule
    sample: np.ndarray
    step: int
    prompt: Conditioning
    negative_prompt: Conditioning | None = None
    guidance_scale: float = 1.0
    capture_steps: frozenset[int] = frozenset()
    clean: np.ndarray | None = None
    captured: dict[int, np.ndarray] = field(default_factory=dict)
    joining: Joining | None = None
    adapters: tuple[Adapter, ...] = ()
    joined: tuple[str, ...] = ()
    joined_at: int | None = None

    @property
    def held(self) -> bool:
        """Whether the next step has to wait for LoRAs."""
        return self.joining is not None and self.step >= self.joining.step and not self.joining.adaptation.done()

    @property
    def rows(self) -> int:
        return 1 if self.negative_prompt is None else 2

    @property
    def done(self) -> bool:
        return self.step >= len(self.schedule)

    def join_if_due(self) -> None:
        """Take up the LoRAs whose step has come; they have to be there (see ``held``)."""
        if self.joining is None or self.step < self.joining.step:
            return
        adaptation = self.joining.adaptation.result(timeout=0)
        self.adapters, self.joined, self.joined_at = adaptation.adapters, adaptation.names, self.step
        self.joining = None
        if adaptation.prompt is not None:
            self.prompt = self.prompt.read_again(adaptation.prompt)
        if adaptation.negative_prompt is not None and self.negative_prompt is not None:
            self.negative_prompt = self.negative_prompt.read_again(adaptation.negative_prompt)

    def keep_if_wanted(self) -> None:
        if self.step in self.capture_steps:
            self.captured[self.step] = self.sample.copy()  # a view would keep the whole batch alive


@dataclass(frozen=True, eq=False)
class _Rows:
    """What the UNet is to be called with: float32 [b, C, h, w], float32 [b], and the conditioning of b rows."""

    sample: np.ndarray
    timestep: np.ndarray
    conditioning: Conditioning

    def __getitem__(self, part: np.ndarray) -> _Rows:
        return _Rows(self.sample[part], self.timestep[part], self.conditioning[part])


class Denoiser:
    """The step that a variant's UNet makes."""

    def __init__(self, unet: UNet, prediction: Prediction, twin: LoraTwin | None = None) -> None:
        """``twin`` runs the rows that have LoRAs; without one, no trajectory may have any."""
        self._unet, self._prediction, self._twin = unet, prediction, twin
        self._banks = Banks()

    def advance(self, trajectories: Sequence[Trajectory], calls: int = 1) -> None:
        """Move each trajectory on by one step, in ``calls`` UNet calls (and as many of its twin, where some have LoRAs
        and others do not). When one of them fails, none has moved."""
        for trajectory in trajectories:
            trajectory.join_if_due()
        x = np.stack([t.sample for t in trajectories])
        output = self._predict(trajectories, x, calls)
        positions = [(t.schedule, t.step) for t in trajectories]
        x_next, clean = step(self._prediction, positions, x, output, [t.clean for t in trajectories])
        for i, trajectory in enumerate(trajectories):
            trajectory.keep_if_wanted()
            trajectory.sample, trajectory.clean = x_next[i], clean[i]
            trajectory.step += 1

    def _predict(self, trajectories: Sequence[Trajectory], x: np.ndarray, calls: int) -> np.ndarray:
        """Guided prediction, float32 [n, C, h, w]. The rows of the negative prompts follow those of the prompts."""
        guided = [i for i, t in enumerate(trajectories) if t.negative_prompt is not None]
        timestep = np.array([t.schedule.timesteps[t.step] for t in trajectories], np.float32)
        prompts = [t.prompt for t in trajectories]
        adapters = [t.adapters for t in trajectories]
        if not guided:
            return self._call(calls, adapters, _Rows(x, timestep, Conditioning.stack(prompts)))
        negative = [t.negative_prompt for t in trajectories if t.negative_prompt is not None]
        output = self._call(
            calls,
            adapters + [adapters[i] for i in guided],
            _Rows(
                np.concatenate([x, x[guided]]),
                np.concatenate([timestep, timestep[guided]]),
                Conditioning.stack(prompts + negative),
            ),
        )
        scale = np.array([trajectories[i].guidance_scale for i in guided], np.float32)
        return guide(output, np.array(guided), scale, len(trajectories))

    def _call(self, calls: int, adapters: Sequence[tuple[Adapter, ...]], rows: _Rows) -> np.ndarray:
        """The answer to all rows, in ``calls`` parts side by side; those with LoRAs from the twin."""
        plain = [i for i, each in enumerate(adapters) if not each]
        adapted = [i for i, each in enumerate(adapters) if each]
        parts = [part for kind in (plain, adapted) if kind for part in np.array_split(kind, min(calls, len(kind)))]
        shares = [rows[part] for part in parts]
        begun = [self._begin([adapters[i] for i in part], share) for part, share in zip(parts, shares, strict=True)]
        outputs = _all(begun)
        for output, share in zip(outputs, shares, strict=True):
            if output.shape != share.sample.shape:  # numpy would broadcast one row to all
                raise Internal(f"the UNet answered with shape {list(output.shape)} to {list(share.sample.shape)}")
        if len(parts) == 1:
            return outputs[0]
        together = np.empty_like(rows.sample)
        for output, part in zip(outputs, parts, strict=True):
            together[part] = output
        return together

    def _begin(self, adapters: Sequence[tuple[Adapter, ...]], rows: _Rows) -> Answer:
        if not adapters[0]:
            return self._unet(rows.sample, rows.timestep, rows.conditioning)
        if self._twin is None:
            raise Internal("a request has LoRAs, but its variant has no LoRA twin")
        return self._twin(rows.sample, rows.timestep, rows.conditioning, self._banks.of(adapters))


def _all(answers: Iterable[Answer]) -> list[np.ndarray]:
    """Every answer; or the first failure, but only when all have come back, since a step is tried again as a whole."""
    outputs, failures = [], []
    for answer in answers:
        try:
            outputs.append(answer())
        except Exception as error:
            failures.append(error)
    if failures:
        raise failures[0]
    return outputs
