"""Allocators by name, each published system and each control in a file of its own."""

from collections.abc import Callable

from underpaint.control.allocation import Allocator, Form
from underpaint.control.allocators.clipper import ClipperHeavy, ClipperLight
from underpaint.control.allocators.diffserve import Diffserve
from underpaint.control.allocators.hadis import Hadis
from underpaint.control.allocators.modm import Modm
from underpaint.control.allocators.proteus import Proteus
from underpaint.control.allocators.static import Static
from underpaint.errors import InvalidArgument

__all__ = ["ALLOCATORS", "by_name"]

_ALL: tuple[Callable[[Form], Allocator], ...] = (Modm, Diffserve, Hadis, Proteus, Static, ClipperLight, ClipperHeavy)
ALLOCATORS: dict[str, Callable[[Form], Allocator]] = {each.name: each for each in _ALL}  # type: ignore[attr-defined]


def by_name(name: str, form: Form = Form.CORRECTED) -> Allocator:
    """A new allocator of that name, or InvalidArgument."""
    if name not in ALLOCATORS:
        raise InvalidArgument.of("allocator", name, ", ".join(ALLOCATORS))
    return ALLOCATORS[name](form)
