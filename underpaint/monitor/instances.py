"""How many processes a variant's UNet has: changed one model at a time, and taken back where one will not load."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from underpaint.errors import Unavailable

log = logging.getLogger(__name__)


class Control(Protocol):
    """Triton's model control, as far as it is needed here (``server.control.ControlClient``)."""

    def config(self, model: str) -> dict[str, object]: ...
    def load(self, model: str, timeout_s: float, config: dict[str, object] | None = None) -> None: ...


@dataclass(frozen=True)
class Instances:
    """Of one server. Only UNets: they block, so that a change loses no request (Triton keeps the surviving ones)."""

    control: Control
    load_timeout_s: float = 120.0

    def present(self, variant: str) -> int:
        """How many a variant has now. Raises OSError or ``TritonError`` where the server does not say."""
        return _count(self.control.config(_unet(variant)))

    def apply(self, wanted: Mapping[str, int]) -> None:
        """Give each variant so many, at least one.

        Raises:
            Unavailable: a model did not load; those that had been changed are as they were.
        """
        changed: list[tuple[str, dict[str, object]]] = []
        try:
            for variant, count in wanted.items():
                before = self.control.config(_unet(variant))
                if _count(before) == max(1, count):
                    continue
                changed.append((_unet(variant), before))
                self.control.load(_unet(variant), self.load_timeout_s, _with_count(before, max(1, count)))
        except (OSError, Unavailable) as error:
            self._roll_back(changed)
            raise Unavailable(f"instances stay as they were: {error}") from None

    def _roll_back(self, changed: list[tuple[str, dict[str, object]]]) -> None:
        for model, before in reversed(changed):
            try:
                self.control.load(model, self.load_timeout_s, before)
            except (OSError, Unavailable) as error:
                log.error("%s could not be taken back to what it was: %s", model, error)


def _unet(variant: str) -> str:
    return f"{variant}_unet"


def _groups(config: Mapping[str, object]) -> list[dict[str, object]]:
    groups = config.get("instance_group")
    return [dict(each) for each in groups] if isinstance(groups, list) else []


def _count(config: Mapping[str, object]) -> int:
    return sum(int(str(group.get("count", 1))) for group in _groups(config))


def _with_count(config: Mapping[str, object], count: int) -> dict[str, object]:
    """The same configuration, with ``count`` instances in its first group and no other."""
    first = _groups(config)[:1] or [{"kind": "KIND_CPU"}]
    return {**config, "instance_group": [{**first[0], "count": count}]}
