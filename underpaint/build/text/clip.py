"""The text of Stable Diffusion 1 and of the tiny family: one CLIP; and of SDXL: two, side by side."""

from __future__ import annotations

import torch
from torch import nn

from underpaint.build.graph import Extent, Graph


class ClipTextGraph(Graph):
    """input_ids int32 [B, N] to last_hidden_state [B, N, D]."""

    outputs = ("last_hidden_state",)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        return self.weights(input_ids.long()).last_hidden_state.float()

    def examples(self, extent: Extent) -> dict[str, torch.Tensor]:
        return {"input_ids": _ids(self.weights, extent)}


class ClipPairTextGraph(Graph):
    """input_ids and input_ids_2 int32 [B, 77] to last_hidden_state [B, 77, D] and pooled_projections [B, P].

    The last layers but one lie side by side; the pooled vector is the second's projection (arXiv 2307.01952, section
    2.1). A prompt without words is nothing but zeros where the pipeline says so (``force_zeros_for_empty_prompt``), as
    diffusers does for a negative prompt that is not given; here, as everywhere in a request, none and an empty one are
    the same.

    ``weights``: ``text_encoder`` (CLIPTextModel) and ``text_encoder_2`` (CLIPTextModelWithProjection).
    """

    outputs = ("last_hidden_state", "pooled_projections")

    def __init__(self, weights: nn.ModuleDict, force_zeros_for_empty_prompt: bool = False) -> None:
        super().__init__(weights)
        self.force_zeros_for_empty_prompt = force_zeros_for_empty_prompt

    def forward(self, input_ids: torch.Tensor, input_ids_2: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        first = self.weights["text_encoder"](input_ids.long(), output_hidden_states=True)
        second = self.weights["text_encoder_2"](input_ids_2.long(), output_hidden_states=True)
        states = torch.cat([first.hidden_states[-2], second.hidden_states[-2]], dim=-1).float()
        pooled = second.text_embeds.float()
        if self.force_zeros_for_empty_prompt:
            # The first encoder's ids end with its end marker, which it is padded with as well.
            has_words = (input_ids[:, 1] != input_ids[:, -1]).float()
            states, pooled = states * has_words[:, None, None], pooled * has_words[:, None]
        return states, pooled

    def examples(self, extent: Extent) -> dict[str, torch.Tensor]:
        return {
            "input_ids": _ids(self.weights["text_encoder"], extent),
            "input_ids_2": _ids(self.weights["text_encoder_2"], extent),
        }


def _ids(encoder: nn.Module, extent: Extent) -> torch.Tensor:
    """Any words, between the markers of begin and end."""
    config = encoder.config
    ids = torch.randint(1, config.vocab_size - 2, (extent.batch, config.max_position_embeddings), dtype=torch.int32)
    ids[:, 0], ids[:, -1] = config.vocab_size - 2, config.vocab_size - 1
    return ids
