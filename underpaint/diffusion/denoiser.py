"""One step of many requests: stack their rows, call the UNet once, advance each by its own schedule. Computes;
decides nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np

from underpaint.diffusion.adapters import Adapted, Adapter, Banks, Joining, kin
from underpaint.diffusion.conditioning import Conditioning
from underpaint.diffusion.controls import Control, ControlledUNet, Controlling, Wanted
from underpaint.diffusion.prediction import Prediction
from underpaint.diffusion.rows import Answer, Rows, wait_for_all
from underpaint.diffusion.sampling import guide, step
from underpaint.diffusion.schedule import Schedule
from underpaint.errors import Internal


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
        controlling: its ControlNets; None without any.
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
    controlling: Controlling | None = None

    @property
    def held(self) -> bool:
        """Whether the next step has to wait for LoRAs, or for ControlNets that act in it."""
        if self.joining is not None and self.step >= self.joining.step and not self.joining.adaptation.done():
            return True
        return self.controlling is not None and not self.controlling.loaded.done() and bool(self.acting)

    @property
    def acting(self) -> tuple[Control, ...]:
        """The ControlNets that act in the next step."""
        if self.controlling is None or self.done:
            return ()
        return tuple(each for each in self.controlling.controls if each.acts(self.step, len(self.schedule)))

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
class _Addons:
    """What a row has beside its conditioning."""

    adapters: tuple[Adapter, ...]
    wanted: Wanted

    @property
    def kind(self) -> tuple[bool, bool]:
        """Whether it has ControlNets, and whether LoRAs: rows of one kind share a call."""
        return bool(self.wanted.controls), bool(self.adapters)

    def negative(self) -> _Addons:
        """The same for the row of the negative prompt."""
        if not self.wanted.controls:
            return self
        return replace(self, wanted=replace(self.wanted, negative=True))


class Denoiser:
    """The step that a variant's UNet makes."""

    def __init__(
        self,
        unet: UNet,
        prediction: Prediction,
        twin: LoraTwin | None = None,
        controlled: ControlledUNet | None = None,
    ) -> None:
        """``twin`` runs the rows that have LoRAs, ``controlled`` those with ControlNets; without one, no trajectory may
        have any."""
        self._unet, self._prediction, self._twin, self._controlled = unet, prediction, twin, controlled
        self._banks = Banks()

    def advance(self, trajectories: Sequence[Trajectory], calls: int = 1) -> None:
        """Move each trajectory on by one step, in ``calls`` UNet calls (and as many for each kind of rows, where some
        have LoRAs or ControlNets and others do not). When one of them fails, none has moved."""
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
        addons = [_Addons(t.adapters, Wanted(t.acting, negative=False)) for t in trajectories]
        if not guided:
            return self._call(calls, addons, Rows(x, timestep, Conditioning.stack(prompts)))
        negative = [t.negative_prompt for t in trajectories if t.negative_prompt is not None]
        output = self._call(
            calls,
            addons + [addons[i].negative() for i in guided],
            Rows(
                np.concatenate([x, x[guided]]),
                np.concatenate([timestep, timestep[guided]]),
                Conditioning.stack(prompts + negative),
            ),
        )
        scale = np.array([trajectories[i].guidance_scale for i in guided], np.float32)
        return guide(output, np.array(guided), scale, len(trajectories))

    def _call(self, calls: int, addons: Sequence[_Addons], rows: Rows) -> np.ndarray:
        """The answer to all rows, in ``calls`` parts side by side for each kind of rows."""
        if calls == 1 and not any(any(each.kind) for each in addons):
            return _of_shape(rows, self._unet(rows.sample, rows.timestep, rows.conditioning)())
        kinds: dict[tuple[bool, bool], list[int]] = {}
        for row, each in enumerate(addons):
            kinds.setdefault(each.kind, []).append(row)
        split = [part for kind in kinds.values() for part in np.array_split(kind, min(calls, len(kind)))]
        parts = [np.array(_side_by_side(part, addons)) for part in split]
        shares = [rows[part] for part in parts]
        begun = [self._begin([addons[i] for i in part], share) for part, share in zip(parts, shares, strict=True)]
        together = np.empty_like(rows.sample)
        for output, share, part in zip(wait_for_all(begun), shares, parts, strict=True):
            together[part] = _of_shape(share, output)
        return together

    def _begin(self, addons: Sequence[_Addons], rows: Rows) -> Answer:
        """Rows of one kind: to the UNet, its LoRA twin, or its halves with ControlNets beside the first."""
        controlled, adapts = addons[0].kind
        adapted = self._banks.of([each.adapters for each in addons]) if adapts else None
        if controlled:
            if self._controlled is None:
                raise Internal("a request has ControlNets, but its variant has no halves for them to join in between")
            return self._controlled.begin(rows, [each.wanted for each in addons], adapted)
        if adapted is None:
            return self._unet(rows.sample, rows.timestep, rows.conditioning)
        if self._twin is None:
            raise Internal("a request has LoRAs, but its variant has no LoRA twin")
        return self._twin(rows.sample, rows.timestep, rows.conditioning, adapted)


def _of_shape(rows: Rows, output: np.ndarray) -> np.ndarray:
    """The output, if it is one for each of the rows; numpy would broadcast one row to all."""
    if output.shape != rows.sample.shape:
        raise Internal(f"the UNet answered with shape {list(output.shape)} to {list(rows.sample.shape)}")
    return output


def _side_by_side(rows: np.ndarray, addons: Sequence[_Addons]) -> list[int]:
    """Those with the same LoRAs one after another, which makes them cheaper (see ``Banks``)."""
    alike: dict[object, list[int]] = {}
    for row in rows:
        alike.setdefault(kin(addons[row].adapters), []).append(int(row))
    return [row for each in alike.values() for row in each]
