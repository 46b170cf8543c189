"""From the contents of a ``scheduler_config.json`` to its typed form.

An option that diffusers knows and we do not is refused when it is switched on: ignoring it would give other images
than the user's pipeline gives.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from underpaint.diffusion.schedulers.config import Config, DiffusionConfig, FlowMatchConfig, one_of
from underpaint.errors import Unsupported

# Present in many saved configurations without any bearing on the result, or only on training.
_INERT = frozenset(
    {"clip_sample_range", "sample_max_value", "dynamic_thresholding_ratio", "interpolation_type", "skip_prk_steps"}
)
_OFF: tuple[object, ...] = (False, None, -math.inf)  # the last: nothing is clipped
# What diffusers does where a file is silent, as far as its classes differ in that.
_DEFAULTS = {
    "EulerDiscreteScheduler": {"timestep_spacing": "linspace"},
    "DPMSolverMultistepScheduler": {"timestep_spacing": "linspace"},
}
# The one form of DPM-Solver that is known here: DPM-Solver++(2M), which ends without noise and so, by itself, in
# lower order. Other names are those of options that say no more than that, or nothing where others are off.
_SOLVER = {"algorithm_type": "dpmsolver++", "solver_order": 2, "solver_type": "midpoint", "final_sigmas_type": "zero"}
_OF_THE_SOLVER = frozenset({*_SOLVER, "lower_order_final", "euler_at_final", "flow_shift", "time_shift_type"})


def read(raw: Mapping[str, Any]) -> Config:
    """The typed form of a configuration.

    Raises:
        InvalidArgument: a value is not among those that are known.
        Unsupported: an option is switched on that is not known.
    """
    name = str(raw.get("_class_name"))
    raw = {**_DEFAULTS.get(name, {}), **raw}
    if name == "FlowMatchEulerDiscreteScheduler":
        return FlowMatchConfig(**_known(FlowMatchConfig, raw))
    if name == "DPMSolverMultistepScheduler":
        return _read_dpm_solver(raw)
    return DiffusionConfig(**_known(DiffusionConfig, raw))


def _read_dpm_solver(raw: Mapping[str, Any]) -> Config:
    """diffusers has one class for both kinds of model, and for a flow other names than in its class for flows."""
    for option, value in _SOLVER.items():
        one_of(option, raw.get(option, value), (value,))
    if not raw.get("use_flow_sigmas"):
        return DiffusionConfig(**_known(DiffusionConfig, raw, _OF_THE_SOLVER))
    one_of("prediction_type", raw.get("prediction_type", "epsilon"), ("flow_prediction",))
    values = _known(DiffusionConfig, raw, _OF_THE_SOLVER | {"use_flow_sigmas"})
    return FlowMatchConfig(values.get("num_train_timesteps", 1000), raw.get("flow_shift", 1.0))


def _known(config_type: type[Config], raw: Mapping[str, Any], harmless: frozenset[str] = frozenset()) -> dict[str, Any]:
    """What ``config_type`` takes of ``raw``."""
    known = {f.name for f in fields(config_type)}
    for name, value in raw.items():
        passed = name.startswith("_") or name in known | harmless | _INERT
        if not passed and value not in _OFF:
            raise Unsupported(f"scheduler option {name}={value!r} is not supported; known: {', '.join(sorted(known))}")
    return {name: raw[name] for name in known if name in raw}
