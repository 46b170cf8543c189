"""The registry: diffusers' class name or our short name to a function from step count to table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from underpaint.diffusion.schedule import Schedule
from underpaint.diffusion.schedulers.config import Config, DiffusionConfig, FlowMatchConfig
from underpaint.diffusion.schedulers.ddim import ddim
from underpaint.diffusion.schedulers.dpm_solver_multistep import dpm_solver_multistep, flow_dpm_solver_multistep
from underpaint.diffusion.schedulers.euler import euler
from underpaint.diffusion.schedulers.flow_match_euler import flow_match_euler
from underpaint.diffusion.schedulers.reading import read
from underpaint.errors import InvalidArgument

_CLASSES = {
    "DDIMScheduler": "ddim",
    "EulerDiscreteScheduler": "euler",
    "FlowMatchEulerDiscreteScheduler": "flow_match_euler",
    "DPMSolverMultistepScheduler": "dpm_solver_multistep",
}
# What can run a model, by how the model was trained.
_SCHEDULERS: dict[type[Config], dict[str, Callable[[Any, int], Schedule]]] = {
    DiffusionConfig: {"ddim": ddim, "euler": euler, "dpm_solver_multistep": dpm_solver_multistep},
    FlowMatchConfig: {"flow_match_euler": flow_match_euler, "dpm_solver_multistep": flow_dpm_solver_multistep},
}


@dataclass(frozen=True)
class Scheduler:
    """A configured scheduler.

    ``schedule(n, image_seq_len)`` is cached: every request of n steps shares one table. The number of tokens that the
    model makes of the latents matters where the configuration shifts by it, and there alone.
    """

    name: str
    config: Config
    schedule: Callable[..., Schedule] = field(repr=False, compare=False)

    @property
    def prediction_type(self) -> str:
        return self.config.prediction_type


def load_scheduler(raw: Mapping[str, Any], name: str | None = None) -> Scheduler:
    """A scheduler from the contents of ``scheduler_config.json``, or its sibling ``name`` on the same configuration.

    Raises:
        InvalidArgument: the class is unknown, or ``name`` does not fit what the model was trained for.
        Unsupported: an option is switched on that would change the result.
    """
    allowed = scheduler_names(raw)
    if name is not None and name not in allowed:
        raise InvalidArgument.of("scheduler", name, ", ".join(allowed))
    config = read(raw)
    tabulate = _SCHEDULERS[type(config)][name or allowed[0]]

    @lru_cache(maxsize=256)
    def table(sized: Config, num_inference_steps: int) -> Schedule:
        return tabulate(sized, num_inference_steps)

    def schedule(num_inference_steps: int, image_seq_len: int = 0) -> Schedule:
        if not 1 <= num_inference_steps <= config.num_train_timesteps:
            allowed = f"1 to {config.num_train_timesteps}, the steps that the model was trained on"
            raise InvalidArgument.of("num_inference_steps", num_inference_steps, allowed)
        return table(config.at(image_seq_len), num_inference_steps)

    return Scheduler(name or allowed[0], config, schedule)


def scheduler_names(raw: Mapping[str, Any]) -> tuple[str, ...]:
    """Every scheduler that can run a model with this configuration, its own first."""
    diffusers_class = str(raw.get("_class_name"))
    if diffusers_class not in _CLASSES:
        raise InvalidArgument.of("_class_name", diffusers_class, ", ".join(_CLASSES))
    own = _CLASSES[diffusers_class]
    return (own, *(name for name in _SCHEDULERS[type(read(raw))] if name != own))
