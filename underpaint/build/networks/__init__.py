"""Denoising networks as graphs, one file a class family, found by diffusers' ``_class_name``.

The contract: ``sample`` float32 [B, C, h, w], ``timestep`` float32 [B] (each row its own), ``encoder_hidden_states``
float32 [B, T, D], then, only where the class takes them and in this order, ``pooled_projections`` float32 [B, P],
``encoder_attention_mask`` float32 [B, T] and ``guidance`` float32 [B]; to ``noise_pred`` float32 [B, C, h, w]. What
follows from the size alone (SDXL's time_ids, FLUX's packing) is computed inside.
"""

from __future__ import annotations

from importlib import import_module

from underpaint.build.graph import Graph
from underpaint.errors import InvalidArgument

_FAMILIES = {
    "UNet2DConditionModel": "unet",
    "SD3Transformer2DModel": "sd3",
    "FluxTransformer2DModel": "flux",
    "SanaTransformer2DModel": "sana",
}


def network_class(class_name: str) -> type[Graph]:
    """The graph for a diffusers class.

    Raises:
        InvalidArgument: there is none.
    """
    if class_name not in _FAMILIES:
        raise InvalidArgument.of("denoising network", class_name, ", ".join(_FAMILIES))
    graph: type[Graph] = import_module(f"{__name__}.{_FAMILIES[class_name]}").GRAPH
    return graph
