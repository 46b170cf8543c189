"""What a build will make, and what that takes: computed from the components' configs, without their weights."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from underpaint.build.checkpoint import Checkpoint
from underpaint.build.networks import network_class
from underpaint.build.recipes import FamilyRecipe, VariantRecipe
from underpaint.build.shapes import vae_scale_factor
from underpaint.build.text import check_encoders
from underpaint.build.text.wording import wording
from underpaint.diffusion.schedulers import scheduler_names
from underpaint.errors import InvalidArgument

_MARGIN = 1.15  # on disk: graphs, which are small, and what a file system takes for itself
_COPIES = 3.5  # of weights in memory while they are exported and compared; 2.15 GiB took 6.8
_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
_ENCODING = ("encoder.", "quant_conv.")  # the parts of an autoencoder


@dataclass(frozen=True)
class Component:
    """One Triton model with weights.

    ``parts`` of the checkpoint that it is made of; ``copies`` of its weights in memory when it is served: of its
    instances and of its twins for LoRAs.
    """

    variant: VariantRecipe
    name: str
    role: str
    parts: tuple[str, ...]
    dtype: torch.dtype
    parameters: int
    copies: int = 1
    twins: tuple[str, ...] = ()

    @property
    def bytes(self) -> int:
        """Of its weights on disk."""
        return self.parameters * self.dtype.itemsize


@dataclass(frozen=True)
class Plan:
    """Everything that a family's build makes, in order."""

    recipe: FamilyRecipe
    checkpoints: Mapping[str, Checkpoint] = field(repr=False)
    components: tuple[Component, ...] = ()

    @property
    def disk_bytes(self) -> int:
        """Of the finished repository; a build that replaces one needs it beside the old one."""
        return int(sum(component.bytes for component in self.components) * _MARGIN)

    @property
    def build_bytes(self) -> int:
        """Of memory while building: the largest component in torch, as it is written, and as onnxruntime opens it."""
        return int(_COPIES * max(component.bytes for component in self.components))

    @property
    def serving_bytes(self) -> int:
        """Of memory for weights when all of it is served."""
        return sum(component.bytes * component.copies for component in self.components)


def plan_build(recipe: FamilyRecipe, checkpoints: Mapping[str, Checkpoint]) -> Plan:
    """What to make of the checkpoint of each variant.

    Raises:
        InvalidArgument: a checkpoint is of another architecture than the recipe says, or a size does not go with it.
    """
    components: list[Component] = []
    for variant in recipe.variants:
        checkpoint = checkpoints[variant.name]
        _check(variant, checkpoint)
        components += _components(variant, checkpoint)
    return Plan(recipe, checkpoints, tuple(components))


def _check(variant: VariantRecipe, checkpoint: Checkpoint) -> None:
    check_encoders(checkpoint.pipeline, checkpoint.encoders, variant.max_sequence_length)
    if variant.pipeline and checkpoint.pipeline != variant.pipeline:
        raise InvalidArgument.of(
            "pipeline of the checkpoint", checkpoint.pipeline, f"{variant.pipeline}, which {variant.name} is made of"
        )
    network_class(checkpoint.components[checkpoint.network][1])
    wording(checkpoint.pipeline, variant.complex_human_instruction)
    try:
        scheduler_names(served_schedule(variant, checkpoint))
    except InvalidArgument as error:
        raise InvalidArgument(f"{variant.name}: scheduler: {error}; the recipe's `scheduler` can replace it") from None
    side = pixels_of_a_latent(checkpoint) * network_multiple(checkpoint)
    for width, height in variant.sizes:
        if width % side or height % side:
            allowed = f"multiples of {side}, what autoencoder and network together divide each side by"
            raise InvalidArgument.of(f"{variant.name}: sizes", f"{width}x{height}", allowed)
        if max(width, height) > largest_side(checkpoint):
            allowed = f"sides up to {largest_side(checkpoint):g}, as far as the network's table of positions goes"
            raise InvalidArgument.of(f"{variant.name}: sizes", f"{width}x{height}", allowed)


def served_schedule(variant: VariantRecipe, checkpoint: Checkpoint) -> dict[str, Any]:
    """The checkpoint's scheduler_config.json with what the recipe changes of it."""
    return {**checkpoint.scheduler_config(), **variant.scheduler}


def replaced_scheduler(variant: VariantRecipe, checkpoint: Checkpoint) -> str:
    """The class of a checkpoint's scheduler, where it is served with another; empty where it is not."""
    own, served = checkpoint.scheduler_config(), served_schedule(variant, checkpoint)
    return "" if own["_class_name"] == served["_class_name"] else str(own["_class_name"])


def pixels_of_a_latent(checkpoint: Checkpoint) -> int:
    return vae_scale_factor(checkpoint.config("vae"))


def network_multiple(checkpoint: Checkpoint) -> int:
    """What the sides of latents have to be multiples of: how often a UNet halves them, or a transformer's patch."""
    config = checkpoint.config(checkpoint.network)
    if "block_out_channels" in config:
        return int(2 ** (len(config["block_out_channels"]) - 1))
    return 2 if checkpoint.pipeline == "FluxPipeline" else int(config.get("patch_size", 1))


def largest_side(checkpoint: Checkpoint) -> float:
    """In pixels: what the network has positions for (SD 3), or no limit."""
    patches = checkpoint.config(checkpoint.network).get("pos_embed_max_size")
    return patches * network_multiple(checkpoint) * pixels_of_a_latent(checkpoint) if patches else math.inf


def _components(variant: VariantRecipe, checkpoint: Checkpoint) -> Iterator[Component]:
    dtype, vae_dtype = _DTYPES[variant.precision], _DTYPES[variant.vae_precision]
    encoders = [checkpoint.on_meta(each) for each in checkpoint.encoders]
    network, vae = checkpoint.on_meta(checkpoint.network), checkpoint.on_meta("vae")
    text_twins = ("lora",) if variant.loras and len(encoders) == 1 else ()
    twins = ("lora", "locon") if variant.loras else ()
    name = variant.name
    yield Component(
        variant,
        f"{name}_text_encoder",
        "text_encoder",
        checkpoint.encoders,
        dtype,
        sum(_count(each) for each in encoders),
        1 + len(text_twins),
        text_twins,
    )
    copies = variant.unet_instances * (2 if twins else 1) + len(twins[1:])
    yield Component(variant, f"{name}_unet", "unet", (checkpoint.network,), dtype, _count(network), copies, twins)
    encoding = sum(p.numel() for key, p in vae.named_parameters() if key.startswith(_ENCODING))
    yield Component(variant, f"{name}_vae_encoder", "vae_encoder", ("vae",), vae_dtype, encoding)
    yield Component(variant, f"{name}_vae_decoder", "vae_decoder", ("vae",), vae_dtype, _count(vae) - encoding)


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
