"""The text of FLUX: T5 word by word, CLIP ViT-L in one vector, as ``FluxPipeline`` has them read."""

from __future__ import annotations

import torch
from torch import nn

from underpaint.build.graph import Extent, Graph


class FluxTextGraph(Graph):
    """input_ids int32 [B, 77] and input_ids_2 int32 [B, N] to last_hidden_state [B, N, D], T5's, and pooled_projections
    [B, P], CLIP's.

    ``weights``: ``text_encoder`` (CLIPTextModel) and ``text_encoder_2`` (T5EncoderModel).
    """

    outputs = ("last_hidden_state", "pooled_projections")

    def __init__(self, weights: nn.ModuleDict, max_sequence_length: int = 512) -> None:
        super().__init__(weights)
        self.max_sequence_length = max_sequence_length
        # torch's fused attention cannot be exported with T5's position biases.
        weights["text_encoder_2"].set_attn_implementation("eager")

    def forward(self, input_ids: torch.Tensor, input_ids_2: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        pooled = self.weights["text_encoder"](input_ids.long()).pooler_output
        states = self.weights["text_encoder_2"](input_ids_2.long()).last_hidden_state
        return states.float(), pooled.float()

    def examples(self, extent: Extent) -> dict[str, torch.Tensor]:
        clip = self.weights["text_encoder"].config.max_position_embeddings
        return {
            "input_ids": torch.ones(extent.batch, clip, dtype=torch.int32),
            "input_ids_2": torch.ones(extent.batch, self.max_sequence_length, dtype=torch.int32),
        }
