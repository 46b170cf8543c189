"""The parts of diffusers' scheduler configurations that change a result, typed and checked."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from underpaint.errors import InvalidArgument


@dataclass(frozen=True)
class DiffusionConfig:
    """Variance-preserving models; names, meanings and defaults as in diffusers."""

    num_train_timesteps: int = 1000
    beta_start: float = 0.0001
    beta_end: float = 0.02
    beta_schedule: str = "linear"
    prediction_type: str = "epsilon"
    timestep_spacing: str = "leading"
    steps_offset: int = 0
    rescale_betas_zero_snr: bool = False
    set_alpha_to_one: bool = True
    final_sigmas_type: str = "zero"
    timestep_type: str = "discrete"

    def __post_init__(self) -> None:
        one_of("timestep_spacing", self.timestep_spacing, ("leading", "trailing", "linspace"))
        one_of("final_sigmas_type", self.final_sigmas_type, ("zero", "sigma_min"))
        one_of("timestep_type", self.timestep_type, ("discrete",))

    def at(self, image_seq_len: int) -> DiffusionConfig:
        """The configuration for images of ``image_seq_len`` tokens: the same for all."""
        return self


@dataclass(frozen=True)
class FlowMatchConfig:
    """Rectified-flow models; names, meanings and defaults as in diffusers.

    ``timestep_spacing`` is what diffusers leaves to the pipeline: the levels before they are shifted fall from 1 to 1/N
    (``trailing``, FLUX) or, whatever N, to one training step (``linspace``, all others).
    """

    num_train_timesteps: int = 1000
    shift: float = 1.0
    use_dynamic_shifting: bool = False
    base_shift: float = 0.5
    max_shift: float = 1.15
    base_image_seq_len: int = 256
    max_image_seq_len: int = 4096
    time_shift_type: str = "exponential"
    timestep_spacing: str = "linspace"
    prediction_type: str = "flow"

    def __post_init__(self) -> None:
        one_of("timestep_spacing", self.timestep_spacing, ("linspace", "trailing"))
        one_of("time_shift_type", self.time_shift_type, ("exponential", "linear"))
        one_of("prediction_type", self.prediction_type, ("flow",))

    def at(self, image_seq_len: int) -> FlowMatchConfig:
        """The configuration for images of ``image_seq_len`` tokens, ``shift`` being theirs.

        Under dynamic shifting mu is linear in the number of tokens, and the shift is exp(mu), or mu itself.
        """
        if not self.use_dynamic_shifting:
            return self
        if image_seq_len < 1:
            raise InvalidArgument.of("image_seq_len", image_seq_len, "1 or more, since the shift depends on it")
        slope = (self.max_shift - self.base_shift) / (self.max_image_seq_len - self.base_image_seq_len)
        mu = self.base_shift + slope * (image_seq_len - self.base_image_seq_len)
        return replace(self, shift=math.exp(mu) if self.time_shift_type == "exponential" else mu)


Config = DiffusionConfig | FlowMatchConfig


def one_of(field: str, value: object, allowed: tuple[object, ...]) -> None:
    """Raise InvalidArgument unless ``value`` is one of ``allowed``."""
    if value not in allowed:
        raise InvalidArgument.of(field, value, ", ".join(map(str, allowed)))
