"""Where a ControlNet's residuals go: which of the UNet's skip connections each is added to.

A ControlNet is a copy of a UNet's encoder (Zhang et al. 2023, arXiv:2302.05543), so the k-th of its residuals belongs
to the k-th skip. One with fewer layers a level than the UNet, which costs less, adds to the last skips of each level.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from underpaint.errors import InvalidArgument, NotFound

FILE_NAME = "controlnet_shape.json"
_DOWNSAMPLED = -1  # in the place of a layer, counted from the end of its level


@dataclass(frozen=True)
class EncoderShape:
    """What of a UNet or a ControlNet must fit, by the names in config.json; ``layers_per_block``: of each level."""

    in_channels: int
    cross_attention_dim: int
    block_out_channels: tuple[int, ...]
    layers_per_block: tuple[int, ...]

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> EncoderShape:
        """From the config.json of a UNet2DConditionModel or a ControlNetModel."""
        channels, layers = tuple(config["block_out_channels"]), config["layers_per_block"]
        each = (layers,) * len(channels) if isinstance(layers, int) else tuple(layers)
        return cls(config["in_channels"], config["cross_attention_dim"], channels, each)

    @classmethod
    def read(cls, path: Path) -> EncoderShape:
        """From such a file. Raises InvalidArgument for what is none."""
        try:
            return cls.of(json.loads(path.read_text()))
        except (OSError, ValueError, KeyError, TypeError) as error:
            allowed = "the config.json of a ControlNetModel or a UNet2DConditionModel"
            raise InvalidArgument.of(str(path), f"{type(error).__name__}: {error}", allowed) from None

    @classmethod
    def load(cls, folder: Path) -> EncoderShape:
        """The shape of the ControlNets that a UNet's decoder takes, beside it. Raises NotFound where it takes none."""
        path = folder / FILE_NAME
        if not path.is_file():
            raise NotFound(f"{path} is missing: export the variant with the halves of its UNet, or fetch it whole")
        return cls.read(path)

    def to_json(self) -> str:
        return json.dumps(asdict(self)) + "\n"

    def unlike(self, other: EncoderShape) -> str:
        """What of it another has differently."""
        return ", ".join(f"{name} {value}" for name, value in vars(self).items() if value != getattr(other, name))

    @property
    def skips(self) -> tuple[tuple[int, int], ...]:
        """The skip connections in order, each by its level and its layer's place from the end of it."""
        return tuple(_skips(self.layers_per_block))

    def shapes(self, height: int, width: int) -> list[tuple[int, int, int]]:
        """The shape [C, h, w] of every skip, for latents of this size; the last is the middle block's as well."""
        return [
            (self.block_out_channels[level], height >> _halvings(level, layer), width >> _halvings(level, layer))
            for level, layer in self.skips
        ]


def residual_places(controlnet: EncoderShape, unet: EncoderShape) -> tuple[int, ...]:
    """For each down block residual of a ControlNet, the number of the UNet's skip that it is added to; the middle's
    goes to the middle.

    Raises:
        InvalidArgument: they do not fit: other channels, or more layers than the UNet has.
    """
    for name in ("in_channels", "cross_attention_dim", "block_out_channels"):
        given, needed = getattr(controlnet, name), getattr(unet, name)
        if given != needed:
            raise InvalidArgument.of(f"ControlNet: {name}", given, f"{needed}, as the UNet has")
    places = {skip: place for place, skip in enumerate(unet.skips)}
    if not places.keys() >= set(controlnet.skips):
        allowed = f"at most {unet.layers_per_block}, as the UNet has"
        raise InvalidArgument.of("ControlNet: layers_per_block", controlnet.layers_per_block, allowed)
    return tuple(places[skip] for skip in controlnet.skips)


def _skips(layers: Sequence[int]) -> Iterator[tuple[int, int]]:
    yield 0, layers[0]  # conv_in, the first of its level's
    for level, count in enumerate(layers):
        yield from ((level, count - 1 - layer) for layer in range(count))
        if level + 1 < len(layers):
            yield level, _DOWNSAMPLED


def _halvings(level: int, layer: int) -> int:
    return level + (layer == _DOWNSAMPLED)
