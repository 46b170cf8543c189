"""The registry: diffusers' class name or our short name to a function from step count to table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from underpaint.diffusion.schedule import Schedule
from underpaint.diffusion.schedulers.config import DiffusionConfig, FlowMatchConfig, read
from underpaint.diffusion.schedulers.ddim import ddim
from underpaint.diffusion.schedulers.euler import euler
from underpaint.diffusion.schedulers.flow_match_euler import flow_match_euler
from underpaint.errors import InvalidArgument


@dataclass(frozen=True)
class _Kind:
    diffusers_class: str
    config_type: type
    tabulate: Callable[[Any, int], Schedule]


_KINDS: dict[str, _Kind] = {
    "ddim": _Kind("DDIMScheduler", DiffusionConfig, ddim),
    "euler": _Kind("EulerDiscreteScheduler", DiffusionConfig, euler),
    "flow_match_euler": _Kind("FlowMatchEulerDiscreteScheduler", FlowMatchConfig, flow_match_euler),
}


@dataclass(frozen=True)
class Scheduler:
    """A configured scheduler. ``schedule(n)`` is cached: every request of n steps shares one table."""

    name: str
    config: DiffusionConfig | FlowMatchConfig
    schedule: Callable[[int], Schedule] = field(repr=False, compare=False)

    @property
    def prediction_type(self) -> str:
        return self.config.prediction_type


def load_scheduler(raw: Mapping[str, Any], name: str | None = None) -> Scheduler:
    """A scheduler from the contents of ``scheduler_config.json``, or its sibling ``name`` on the same configuration.

    Raises:
        InvalidArgument: the class is unknown, or ``name`` does not fit what the model was trained for.
        Unsupported: an option is switched on that would change the result.
    """
    own = _name_of(str(raw.get("_class_name")))
    kind = _KINDS[own]
    allowed = scheduler_names(raw)
    if name is not None and name not in allowed:
        raise InvalidArgument.of("scheduler", name, ", ".join(allowed))
    chosen = _KINDS[name or own]
    config: DiffusionConfig | FlowMatchConfig = read(kind.config_type, raw)

    @lru_cache(maxsize=256)
    def schedule(num_inference_steps: int) -> Schedule:
        if not 1 <= num_inference_steps <= config.num_train_timesteps:
            allowed = f"1 to {config.num_train_timesteps}, the steps that the model was trained on"
            raise InvalidArgument.of("num_inference_steps", num_inference_steps, allowed)
        return chosen.tabulate(config, num_inference_steps)

    return Scheduler(name or own, config, schedule)


def scheduler_names(raw: Mapping[str, Any]) -> tuple[str, ...]:
    """Every scheduler that can run a model with this configuration, its own first."""
    own = _name_of(str(raw.get("_class_name")))
    siblings = [name for name, kind in _KINDS.items() if kind.config_type is _KINDS[own].config_type]
    return (own, *(name for name in siblings if name != own))


def _name_of(diffusers_class: str) -> str:
    for name, kind in _KINDS.items():
        if kind.diffusers_class == diffusers_class:
            return name
    raise InvalidArgument.of("_class_name", diffusers_class, ", ".join(k.diffusers_class for k in _KINDS.values()))
