"""Frozen dataclasses from JSON, checked value by value."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields
from typing import Any, TypeVar

from underpaint.errors import InvalidArgument

T = TypeVar("T")


def build(cls: type[T], raw: Any, where: str, parts: Mapping[str, type]) -> T:
    """A dataclass of a JSON object: no name unknown, none missing, lists as tuples, every value of its type.

    ``where``: what it is, for messages; ``parts``: dataclasses inside it, by name.

    Raises:
        InvalidArgument: it is not, with the name of what is wrong.
    """
    if not isinstance(raw, Mapping):
        raise InvalidArgument.of(where, raw, "a JSON object")
    known = {f.name: f for f in fields(cls)}  # type: ignore[arg-type]
    for name in raw:
        if name not in known:
            raise InvalidArgument.of(f"{where}: name", name, ", ".join(known))
    for name, each in known.items():
        if name not in raw and each.default is MISSING and each.default_factory is MISSING:
            raise InvalidArgument.of(f"{where}: {name}", None, "a value")
    return cls(**{name: _value(str(known[name].type), value, f"{where}: {name}", parts) for name, value in raw.items()})


def _value(kind: str, raw: Any, where: str, parts: Mapping[str, type]) -> Any:
    if kind.endswith(" | None"):
        return None if raw is None else _value(kind.removesuffix(" | None"), raw, where, parts)
    if kind.startswith("tuple["):
        if not isinstance(raw, list):
            raise InvalidArgument.of(where, raw, "a list")
        inner = kind.removeprefix("tuple[").removesuffix(", ...]")
        return tuple(_value(inner, each, f"{where}[{number}]", parts) for number, each in enumerate(raw))
    if kind in parts:
        return build(parts[kind], raw, where, parts)
    allowed, types, convert = _PLAIN[kind]
    if type(raw) not in types:
        raise InvalidArgument.of(where, raw, allowed)
    return convert(raw)


_PLAIN: dict[str, tuple[str, tuple[type, ...], Callable[[Any], Any]]] = {
    "str": ("a text", (str,), str),
    "int": ("an integer", (int,), int),
    "float": ("a number", (int, float), float),
    "bool": ("true or false", (bool,), bool),
}
