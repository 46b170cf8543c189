"""Text encoders as graphs, one file a way of joining them, found by the class of diffusers' pipeline.

The contract: ``input_ids`` int32 [B, N] (and ``input_ids_2``, ``input_ids_3``, one for each encoder) to
``last_hidden_state`` float32 [B, T, D] and, only where the network takes them, ``pooled_projections`` float32 [B, P]
and ``attention_mask`` float32 [B, T].
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module

from torch import nn

from underpaint.build.graph import Graph
from underpaint.errors import InvalidArgument

_GRAPHS = {
    "StableDiffusionPipeline": ("clip", "ClipTextGraph"),
    "StableDiffusionXLPipeline": ("clip", "ClipPairTextGraph"),
    "StableDiffusion3Pipeline": ("sd3", "SD3TextGraph"),
    "FluxPipeline": ("flux", "FluxTextGraph"),
    "SanaPipeline": ("gemma", "GemmaTextGraph"),
}
PIPELINES = tuple(_GRAPHS)


def text_graph(pipeline: str, encoders: Mapping[str, nn.Module], **options: object) -> Graph:
    """The graph of a pipeline's text encoders, by their names in it.

    Args:
        options: what this pipeline's graph can be told beside, such as ``max_sequence_length``.

    Raises:
        InvalidArgument: there is none for such a pipeline.
    """
    if pipeline not in _GRAPHS:
        raise InvalidArgument.of("pipeline", pipeline, ", ".join(_GRAPHS))
    module, name = _GRAPHS[pipeline]
    weights = nn.ModuleDict(encoders) if len(encoders) > 1 else next(iter(encoders.values()))
    graph: Graph = getattr(import_module(f"{__name__}.{module}"), name)(weights, **options)
    return graph
