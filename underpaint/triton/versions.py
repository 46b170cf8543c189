"""Which versions of a family's models are loaded, and which of them belong together, written into their configs.

See ``releases`` for what versions are. Everything here is a function from configs to configs.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tritonclient.grpc.model_config_pb2 import ModelConfig

_OF_ANOTHER_MODEL = re.compile(r"^(\.\./\.\./[^/]+/)\d+(?=/)")


@dataclass(frozen=True)
class Versioned:
    """The models of some variants: ``callers``, whose configs name others, and ``components``, which have weights."""

    variants: tuple[str, ...]
    callers: frozenset[str]
    components: frozenset[str]

    @classmethod
    def of(cls, variants: Iterable[str], configs: Sequence[ModelConfig]) -> Versioned:
        """Those among ``configs``, none of which is a copy for a version on trial, that belong to a variant."""
        named = tuple(variants)
        owned = [each for each in configs if any(_owns(variant, each.name) for variant in named)]
        callers = frozenset(each.name for each in owned if _names_others(each))
        return cls(named, callers, frozenset(each.name for each in owned) - callers)

    def renamed(self, name: str, suffix: str) -> str:
        """What a caller is called with ``suffix`` behind its variant; other models keep their names."""
        if name not in self.callers:
            return name
        variant = next(each for each in self.variants if _owns(each, name))
        return f"{variant}{suffix}{name.removeprefix(variant)}"

    def pinned(self, config: ModelConfig, version: int, suffix: str = "") -> ModelConfig:
        """A config of these models for one version, and what it names likewise; others are left alone."""
        if config.name not in self.callers | self.components:
            return config
        pinned = loading(config, [version])
        pinned.name = self.renamed(config.name, suffix)
        pinned.default_model_filename = _OF_ANOTHER_MODEL.sub(rf"\g<1>{version}", config.default_model_filename)
        for step in pinned.ensemble_scheduling.step:
            if step.model_name in self.callers | self.components:
                step.model_name, step.model_version = self.renamed(step.model_name, suffix), version
        for name, parameter in config.parameters.items():  # of denoisers, some of which name models
            named = parameter.string_value.split(",")
            pinned.parameters[name].string_value = ",".join(self.renamed(each, suffix) for each in named)
        return pinned


def loading(config: ModelConfig, versions: Sequence[int]) -> ModelConfig:
    """The same config, with these versions loaded."""
    changed = ModelConfig()
    changed.CopyFrom(config)
    changed.ClearField("version_policy")
    changed.version_policy.specific.versions.extend(versions)
    return changed


def _owns(variant: str, model: str) -> bool:
    return model == variant or model.startswith(f"{variant}_")


def _names_others(config: ModelConfig) -> bool:
    return (
        config.platform == "ensemble"
        or config.backend == "python"
        or bool(_OF_ANOTHER_MODEL.match(config.default_model_filename))
    )
