"""What to do about model processes that die or hang. Only decisions: no clock, no process, no server.

Seen on tritonserver 2.51 (which restarts nothing by itself):

- A model that blocks in ``execute`` and dies: Triton errors its callers within a second; a reload heals it.
- A model that answers later and dies: what it held is never answered, whatever the model-control API is told. Only
  the end of the tritonserver process releases those callers.
- A stub that died stays a zombie child of tritonserver until its model object is gone; one that ended because its
  model was unloaded is reaped at once.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any


class OnDeath(Enum):
    """What the death of a model's process calls for beyond reloading the model."""

    RELOAD = "reload"
    RESTART_SERVER = "restart_server"


@dataclass(frozen=True)
class RestartLimits:
    """At most ``burst`` restarts in ``window_s``; the first at once, each further one after twice the delay."""

    burst: int = 5
    window_s: float = 600.0
    first_delay_s: float = 1.0
    max_delay_s: float = 30.0


def restart_delay_s(deaths: Sequence[float], limits: RestartLimits) -> float | None:
    """Seconds to wait before the restart that the last of ``deaths`` (times, ascending) calls for; None: give up."""
    recent = sum(1 for at in deaths if deaths[-1] - at <= limits.window_s)
    if recent > limits.burst:
        return None
    if recent == 1:
        return 0.0
    return float(min(limits.max_delay_s, limits.first_delay_s * 2 ** (recent - 2)))


@dataclass(frozen=True)
class ModelTraits:
    """What supervision needs to know of a loaded model."""

    name: str
    instance_groups: tuple[str, ...]
    heartbeat: bool
    on_death: OnDeath

    @classmethod
    def of_config(cls, config: Mapping[str, Any]) -> ModelTraits:
        """From the configuration that the server reports: parameters ``heartbeat`` ("true") and ``on_death``.

        A model with a heartbeat, or a decoupled one, is taken to hold requests while it works on them, unless it says
        that a reload will do: because it blocks, or because its callers look after themselves.
        """
        parameters = {key: value.get("string_value", "") for key, value in config.get("parameters", {}).items()}
        heartbeat = parameters.get("heartbeat") == "true"
        holds_requests = heartbeat or config.get("model_transaction_policy", {}).get("decoupled", False)
        default = OnDeath.RESTART_SERVER if holds_requests else OnDeath.RELOAD
        wanted = parameters.get("on_death")
        on_death = OnDeath(wanted) if wanted in {each.value for each in OnDeath} else default
        groups = tuple(group["name"] for group in config.get("instance_group", ()))
        return cls(config["name"], groups, heartbeat, on_death)

    def owns(self, instance: str) -> bool:
        """Whether a stub's instance name (``tiny-s_unet_0_1``: group, number) belongs to this model."""
        return any(re.fullmatch(rf"{re.escape(group)}_\d+", instance) for group in self.instance_groups)


@dataclass(frozen=True)
class Stub:
    """One child process of tritonserver. A defunct one has no command line left, hence no ``instance``."""

    pid: int
    instance: str
    defunct: bool


class StubWatch:
    """Tells which stubs died on their own, from successive looks at the children of tritonserver."""

    def __init__(self) -> None:
        self._instances: dict[int, str] = {}
        self._defunct_once: set[int] = set()
        self._buried: set[int] = set()

    def meet(self, stubs: Iterable[Stub]) -> None:
        """Take note of the living."""
        self._instances.update({stub.pid: stub.instance for stub in stubs if not stub.defunct})

    def look(self, stubs: Iterable[Stub]) -> list[Stub]:
        """The dead: seen alive once, then defunct in two looks running, and not buried yet."""
        stubs = list(stubs)
        self.meet(stubs)
        defunct = {stub.pid for stub in stubs if stub.defunct and stub.pid in self._instances}
        dead = (defunct & self._defunct_once) - self._buried
        self._defunct_once = defunct
        return [Stub(pid, self._instances[pid], defunct=True) for pid in sorted(dead)]

    def bury(self, pid: int) -> None:
        """Its death was seen to: ``look`` need not tell of it any more."""
        self._buried.add(pid)


class Pulse:
    """Counts missed heartbeats; a model that misses ``misses_allowed`` + 1 in a row hangs."""

    def __init__(self, misses_allowed: int = 1) -> None:
        self._allowed = misses_allowed
        self._misses: dict[str, int] = {}

    def beat(self, model: str, answered: bool) -> bool:
        """Note one heartbeat; whether the model must now be taken for hung (which also forgets its misses)."""
        misses = 0 if answered else self._misses.get(model, 0) + 1
        hung = misses > self._allowed
        self._misses[model] = 0 if hung else misses
        return hung
