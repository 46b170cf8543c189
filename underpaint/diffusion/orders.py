"""From what a caller asks of a denoiser to the trajectory that it will follow.

Ensembles can be called without passing the front door, so what would end in nonsense or harm others in the batch is
checked here too. The limits that a deployment sets (steps, guidance, length of prompts) are the front door's alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from underpaint.diffusion.conditioning import Conditioning
from underpaint.diffusion.denoiser import Trajectory
from underpaint.diffusion.noise import gaussian
from underpaint.diffusion.schedule import Schedule
from underpaint.diffusion.schedulers import Scheduler
from underpaint.errors import InvalidArgument
from underpaint.requests import MAX_SEED


@dataclass(frozen=True)
class Canvas:
    """What a variant paints on: channels of its latents, pixels a latent stands for, (width, height) in pixels.

    ``guidance_embeds``: guidance is built into its weights, which are told the scale; no negative prompt is read.
    ``patch_size``: so many latents, in each direction, are one token to the network (a UNet knows none).
    """

    latent_channels: int
    vae_scale_factor: int
    sizes: tuple[tuple[int, int], ...]
    guidance_embeds: bool = False
    patch_size: int = 1

    def shape(self, width: int, height: int) -> tuple[int, int, int]:
        """The shape of the latents, or InvalidArgument for a size that the variant cannot make."""
        if (width, height) not in self.sizes:
            allowed = ", ".join(f"{w}x{h}" for w, h in self.sizes)
            raise InvalidArgument.of("width, height", f"{width}x{height}", allowed)
        return self.latent_channels, height // self.vae_scale_factor, width // self.vae_scale_factor

    def image_seq_len(self, width: int, height: int) -> int:
        """How many tokens an image is, by which some schedules are shifted."""
        _, rows, columns = self.shape(width, height)
        return (rows // self.patch_size) * (columns // self.patch_size)


@dataclass(frozen=True, eq=False)
class Order:
    """One image to be denoised.

    It starts from noise; or from ``image_latents``, float32 [C, h, w], clean, to which the noise of ``start_step`` is
    added; or from ``start_latents``, float32 [C, h, w], as they were before ``start_step``. The sample is kept before
    each of ``capture_steps``.
    """

    prompt: Conditioning
    negative_prompt: Conditioning | None
    seed: int
    num_inference_steps: int
    guidance_scale: float
    scheduler: str
    width: int
    height: int
    start_step: int = 0
    image_latents: np.ndarray | None = None
    start_latents: np.ndarray | None = None
    capture_steps: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.seed <= MAX_SEED:
            raise InvalidArgument.of("seed", self.seed, f"0 to {MAX_SEED}")
        if not (math.isfinite(self.guidance_scale) and self.guidance_scale >= 0):
            raise InvalidArgument.of("guidance_scale", self.guidance_scale, "a finite number, 0 or more")
        for step in self.capture_steps:
            if not self.start_step < step < self.num_inference_steps:
                allowed = f"{self.start_step + 1} to {self.num_inference_steps - 1}"
                raise InvalidArgument.of("capture_steps", step, allowed)


def begin(order: Order, canvas: Canvas, schedulers: Mapping[str, Scheduler]) -> Trajectory:
    """The trajectory of ``order``, before its first step.

    Raises:
        InvalidArgument: the variant has no such scheduler or size, or latents do not fit.
    """
    if order.scheduler not in schedulers:
        raise InvalidArgument.of("scheduler", order.scheduler, ", ".join(schedulers))
    image_seq_len = canvas.image_seq_len(order.width, order.height)
    schedule = schedulers[order.scheduler].schedule(order.num_inference_steps, image_seq_len)
    schedule.check_step(order.start_step)
    return Trajectory(
        schedule=schedule,
        sample=_first_sample(order, canvas.shape(order.width, order.height), schedule),
        step=order.start_step,
        prompt=_told_the_scale(order) if canvas.guidance_embeds else order.prompt,
        negative_prompt=order.negative_prompt if order.guidance_scale > 1 and not canvas.guidance_embeds else None,
        guidance_scale=order.guidance_scale,
        capture_steps=frozenset(order.capture_steps),
    )


def _told_the_scale(order: Order) -> Conditioning:
    return replace(order.prompt, guidance=np.array(order.guidance_scale, np.float32))


def _first_sample(order: Order, shape: tuple[int, int, int], schedule: Schedule) -> np.ndarray:
    if order.start_latents is not None:
        return _of_shape("start_latents", order.start_latents, shape)
    noise = gaussian(order.seed, shape)
    if order.image_latents is not None:
        clean = _of_shape("image_latents", order.image_latents, shape)
        return schedule.start_from_image(clean, noise, order.start_step)
    if order.start_step:
        raise InvalidArgument.of("start_step", order.start_step, "0, where there are no latents to start from")
    return schedule.start_from_noise(noise)


def _of_shape(name: str, latents: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    if latents.shape != shape:
        raise InvalidArgument.of(name, f"shape {list(latents.shape)}", f"shape {list(shape)}")
    if not np.isfinite(latents).all():
        raise InvalidArgument.of(name, "values that are not finite", "finite numbers")
    return latents
