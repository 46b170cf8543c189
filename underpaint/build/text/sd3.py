"""The text of Stable Diffusion 3 and 3.5: CLIP ViT-L, OpenCLIP ViT-bigG and T5, as ``StableDiffusion3Pipeline`` joins
what they say."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from underpaint.build.graph import Extent, Graph


class SD3TextGraph(Graph):
    """input_ids and input_ids_2 int32 [B, 77], input_ids_3 int32 [B, N] to last_hidden_state [B, 77 + N, D] and
    pooled_projections [B, P].

    The last layers but one of the two CLIPs lie side by side, filled up with zeros to T5's width, and T5's last layer
    follows them; the pooled vectors are the projections of the CLIPs, one after the other.

    ``weights``: ``text_encoder`` and ``text_encoder_2`` (CLIPTextModelWithProjection), ``text_encoder_3``
    (T5EncoderModel).
    """

    outputs = ("last_hidden_state", "pooled_projections")

    def __init__(self, weights: nn.ModuleDict, max_sequence_length: int = 256) -> None:
        super().__init__(weights)
        self.max_sequence_length = max_sequence_length
        # torch's fused attention cannot be exported with T5's position biases.
        weights["text_encoder_3"].set_attn_implementation("eager")

    def forward(
        self, input_ids: torch.Tensor, input_ids_2: torch.Tensor, input_ids_3: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        first = self.weights["text_encoder"](input_ids.long(), output_hidden_states=True)
        second = self.weights["text_encoder_2"](input_ids_2.long(), output_hidden_states=True)
        t5 = self.weights["text_encoder_3"](input_ids_3.long()).last_hidden_state.float()
        clip = torch.cat([first.hidden_states[-2], second.hidden_states[-2]], dim=-1).float()
        clip = F.pad(clip, (0, t5.shape[-1] - clip.shape[-1]))
        pooled = torch.cat([first.text_embeds, second.text_embeds], dim=-1)
        return torch.cat([clip, t5], dim=1), pooled.float()

    def examples(self, extent: Extent) -> dict[str, torch.Tensor]:
        clip = self.weights["text_encoder"].config.max_position_embeddings
        return {
            "input_ids": torch.ones(extent.batch, clip, dtype=torch.int32),
            "input_ids_2": torch.ones(extent.batch, clip, dtype=torch.int32),
            "input_ids_3": torch.ones(extent.batch, self.max_sequence_length, dtype=torch.int32),
        }
