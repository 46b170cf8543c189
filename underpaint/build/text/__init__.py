"""Text encoders as graphs, one file a way of joining them, found by the class of diffusers' pipeline.

The contract: ``input_ids`` int32 [B, N] (and ``input_ids_2``, ``input_ids_3``, one for each encoder) to
``last_hidden_state`` float32 [B, T, D] and, only where the network takes them, ``pooled_projections`` float32 [B, P]
and ``attention_mask`` float32 [B, T].
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module

from torch import nn

from underpaint.build.graph import Graph
from underpaint.errors import InvalidArgument

_GRAPHS = {  # and how many text encoders it joins
    "StableDiffusionPipeline": ("clip", "ClipTextGraph", 1),
    "StableDiffusionXLPipeline": ("clip", "ClipPairTextGraph", 2),
    "StableDiffusion3Pipeline": ("sd3", "SD3TextGraph", 3),
    "FluxPipeline": ("flux", "FluxTextGraph", 2),
    "SanaPipeline": ("gemma", "GemmaTextGraph", 1),
}


def text_graph(pipeline: str, encoders: Mapping[str, nn.Module], **options: object) -> Graph:
    """The graph of a pipeline's text encoders, by their names in it.

    Args:
        options: what this pipeline's graph can be told beside, such as ``max_sequence_length``.

    Raises:
        InvalidArgument: there is none for such a pipeline.
    """
    check_encoders(pipeline, tuple(encoders))
    module, name, _ = _GRAPHS[pipeline]
    weights = nn.ModuleDict(encoders) if len(encoders) > 1 else next(iter(encoders.values()))
    graph: Graph = getattr(import_module(f"{__name__}.{module}"), name)(weights, **options)
    return graph


def check_encoders(pipeline: str, encoders: Sequence[str], max_sequence_length: int = 0) -> None:
    """Raise InvalidArgument unless there is a graph for such a pipeline with text encoders of these names, which can be
    told how far to read, if it is."""
    if pipeline not in _GRAPHS:
        raise InvalidArgument.of("pipeline of the checkpoint", pipeline, ", ".join(_GRAPHS))
    count = _GRAPHS[pipeline][2]
    if len(encoders) != count:
        allowed = f"{count} for {pipeline}; a checkpoint that leaves one out is not served"
        raise InvalidArgument.of("text encoders of the checkpoint", ", ".join(encoders) or "none", allowed)
    if max_sequence_length and _GRAPHS[pipeline][0] == "clip":
        allowed = f"0 for {pipeline}: CLIP reads as far as it can"
        raise InvalidArgument.of("max_sequence_length", max_sequence_length, allowed)
