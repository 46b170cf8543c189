"""The parts of diffusers' scheduler configurations that change a result, typed and checked.

An option that diffusers knows and we do not is refused when it is switched on: ignoring it would give other images
than the user's pipeline gives.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeVar

from underpaint.errors import InvalidArgument, Unsupported

Config = TypeVar("Config", bound="DiffusionConfig | FlowMatchConfig")

# Present in every saved configuration without any bearing on the result, or only on training.
_INERT = frozenset({"clip_sample_range", "sample_max_value", "dynamic_thresholding_ratio", "interpolation_type"})
_OFF: tuple[object, ...] = (False, None)


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
        _one_of("timestep_spacing", self.timestep_spacing, ("leading", "trailing", "linspace"))
        _one_of("final_sigmas_type", self.final_sigmas_type, ("zero", "sigma_min"))
        _one_of("timestep_type", self.timestep_type, ("discrete",))


@dataclass(frozen=True)
class FlowMatchConfig:
    """Rectified-flow models; names, meanings and defaults as in diffusers."""

    num_train_timesteps: int = 1000
    shift: float = 1.0
    prediction_type: str = "flow"


def read(config_type: type[Config], raw: Mapping[str, Any]) -> Config:
    """The typed form of a ``scheduler_config.json``; what is switched on but not known is refused."""
    known = {f.name for f in fields(config_type)}
    for name, value in raw.items():
        harmless = name.startswith("_") or name in known or name in _INERT or _is_default_elsewhere(name)
        if not harmless and value not in _OFF:
            raise Unsupported(f"scheduler option {name}={value!r} is not supported; known: {', '.join(sorted(known))}")
    return config_type(**{name: raw[name] for name in known if name in raw})


def _is_default_elsewhere(name: str) -> bool:
    """Options of dynamic shifting, which only matter when ``use_dynamic_shifting`` is on (and then is refused)."""
    return name in {"base_shift", "max_shift", "base_image_seq_len", "max_image_seq_len", "time_shift_type"}


def _one_of(field: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise InvalidArgument.of(field, value, ", ".join(allowed))
