"""Where a ControlNet's residuals go: which of the UNet's skip connections each is added to.

A ControlNet is a copy of a UNet's encoder (Zhang et al. 2023, arXiv:2302.05543), so the k-th of its residuals belongs
to the k-th skip. One with fewer layers a level than the UNet, which costs less, adds to the last skips of each level.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from underpaint.errors import InvalidArgument

_DOWNSAMPLED = -1  # in the place of a layer, counted from the end of its level


def residual_places(controlnet: Mapping[str, Any], unet: Mapping[str, Any]) -> tuple[int, ...]:
    """For each down block residual of a ControlNet, the number of the UNet's skip that it is added to; the middle's
    goes to the middle.

    Args:
        controlnet, unet: their config.json, of ControlNetModel and UNet2DConditionModel.

    Raises:
        InvalidArgument: they do not fit: other channels, or more layers than the UNet has.
    """
    for name in ("block_out_channels", "cross_attention_dim", "in_channels"):
        if controlnet[name] != unet[name]:
            raise InvalidArgument.of(f"ControlNet: {name}", controlnet[name], f"{unet[name]}, as the UNet has")
    places = {skip: place for place, skip in enumerate(_skips(_layers(unet)))}
    wanted = tuple(_skips(_layers(controlnet)))
    if not places.keys() >= set(wanted):
        allowed = f"at most {_layers(unet)} a level, as the UNet has"
        raise InvalidArgument.of("ControlNet: layers_per_block", _layers(controlnet), allowed)
    return tuple(places[skip] for skip in wanted)


def skip_count(unet: Mapping[str, Any]) -> int:
    """How many skip connections lead from a UNet's encoder into its decoder."""
    return len(tuple(_skips(_layers(unet))))


def _layers(config: Mapping[str, Any]) -> list[int]:
    """How many residual blocks each level has."""
    layers, levels = config["layers_per_block"], len(config["block_out_channels"])
    return [layers] * levels if isinstance(layers, int) else list(layers)


def _skips(layers: Sequence[int]) -> Iterator[tuple[int, int]]:
    """The skips in order, each by its level and its layer's place from the end of it."""
    yield 0, layers[0]  # conv_in, before the first layer
    for level, count in enumerate(layers):
        yield from ((level, count - 1 - layer) for layer in range(count))
        if level + 1 < len(layers):
            yield level, _DOWNSAMPLED
